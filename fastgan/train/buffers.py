"""Batch norm's running statistics and the like, where an update that was skipped has left NaN in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GoodBuffers:
    """Holds each float buffer of some networks as it was when it was last finite.

    The guard on updates keeps NaN out of weights; buffers change in the forward pass, before there is a verdict.
    Buffers that are not finite to begin with, as masks are, are left alone.
    """

    def __init__(self, networks: dict[str, nn.Module]):
        self._own: dict[str, Tensor] = {
            f"{part}.{name}": buffer
            for part, network in networks.items()
            for name, buffer in network.named_buffers()
            if buffer.is_floating_point() and bool(buffer.isfinite().all())
        }
        self._good = [buffer.detach().clone() for buffer in self._own.values()]

    @torch.no_grad()
    def keep_or_restore(self) -> list[str]:
        """Names of the buffers that were not finite and are now as they were at the last call that found them so."""
        if not self._own:
            return []
        own = list(self._own.values())
        finite = torch.stack([buffer.isfinite().all() for buffer in own]).tolist()
        for buffer, good, fine in zip(own, self._good, finite, strict=True):
            target, source = (good, buffer) if fine else (buffer, good)
            target.copy_(source)
        return [name for name, fine in zip(self._own, finite, strict=True) if not fine]
