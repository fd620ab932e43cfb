"""Exponential moving average of a generator's weights: the copy that is sampled and exported."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, nn

from fastgan.nn.copying import copied

#: Tensors of the average, and of the network in the same order.
_Pairs = tuple[list[Tensor], list[Tensor]]


class Ema:
    """Keeps `module`, a copy of a network whose weights and float buffers follow the original's.

    half_life: images after which an old weight counts half; 0 makes the copy equal the original. The average ramps up,
    or the first samples would be noise for long: the half-life is at most `ramp_up` times the images so far (0.05 in
    StyleGAN2, Karras et al. 2020, arXiv:2006.06676); with 0 the average looks no further back than a tenth of the steps
    so far.
    """

    def __init__(self, network: nn.Module, half_life: float, ramp_up: float = 0.0):
        self.module = copied(network).eval().requires_grad_(False)
        self.half_life, self.ramp_up = half_life, ramp_up
        self._known: tuple[nn.Module, _Pairs, _Pairs] | None = None
        self._averaged = [_has_a_mean(name, buffer) for name, buffer in self.module.named_buffers()]

    def weight(self, images: int, step: int) -> float:
        """How far the average moves toward the network in its step `step` (from 1), which used `images` images."""
        half_life = min(self.half_life, self.ramp_up * images * step) if self.ramp_up else self.half_life
        decay = 0.5 ** (images / half_life) if half_life > 0 else 0.0
        return 1 - decay if self.ramp_up else 1 - min(decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, network: nn.Module, weight: float | Tensor, moved: Container[int] = ()) -> None:
        """Move the average toward `network` by `weight`: a number, or a scalar on the device for a CUDA graph.

        moved: the ids of the network's tensors whose averages an optimizer's step has moved already.
        """
        every, (copies, originals) = self._tensors(network)
        pairs = [pair for pair in zip(*every, strict=True) if id(pair[1]) not in moved]
        if pairs:
            averages, weights = map(list, zip(*pairs, strict=True))
            if isinstance(weight, Tensor):
                torch._foreach_lerp_(averages, weights, [weight.to(average.dtype) for average in averages])
            else:
                torch._foreach_lerp_(averages, weights, weight)
        if copies:
            torch._foreach_copy_(copies, originals)

    def averages(self, network: nn.Module) -> dict[int, Tensor]:
        """The average of each tensor of `network` that has one, by the tensor's id."""
        (averages, weights), _ = self._tensors(network)
        return {id(weight): average for average, weight in zip(averages, weights, strict=True)}

    @torch.no_grad()
    def match_strides(self, network: nn.Module) -> None:
        """Give the average the strides of `network`, after they have changed: one pass moves both only where they
        walk through memory alike."""
        (averages, weights), _ = self._tensors(network)
        for average, weight in zip(averages, weights, strict=True):
            if average.stride() != weight.stride():
                average.data = torch.empty_like(weight, dtype=average.dtype).copy_(average)

    def forget(self) -> None:
        """Look the tensors of both networks up again: they have changed, as in networks that grow."""
        self._known = None

    def _tensors(self, network: nn.Module) -> tuple[_Pairs, _Pairs]:
        """`_pairs`, looked up once."""
        if self._known is None or self._known[0] is not network:
            self._known = network, *self._pairs(network)
        return self._known[1:]

    def _pairs(self, network: nn.Module) -> tuple[_Pairs, _Pairs]:
        """Those of ours and of the original's that are averaged, and those that are copied."""
        # Batch norm's statistics belong to the weights they were measured with, so they are averaged with them.
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(network.parameters())
        copies: list[Tensor] = []
        originals: list[Tensor] = []
        for own, other, averaged in zip(self.module.buffers(), network.buffers(), self._averaged, strict=True):
            (mine if averaged else copies).append(own)
            (theirs if averaged else originals).append(other)
        return (mine, theirs), (copies, originals)


def _has_a_mean(name: str, buffer: torch.Tensor) -> bool:
    """Others are copied: a mask's infinities, whose mean would be NaN, and the unit vectors of power iterations (by
    torch's names, which are ours), whose mean is shorter and would let a spectral norm scale its weight too high."""
    vector = name.endswith(("_u", "_v"))
    return buffer.is_floating_point() and not vector and bool(buffer.isfinite().all())
