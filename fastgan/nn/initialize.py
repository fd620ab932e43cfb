"""Initial weights of a network, also of layers with spectral norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan.nn.orthogonal import raw_weight
from fastgan.nn.spectral import SpectralNorm
from fastgan.nn.spectral_group import LAYERS, norm_of
from fastgan.ops import power_iteration


@torch.no_grad()
def initialize(network: nn.Module, fill: Callable[[Tensor], Any]) -> None:
    """Call fill(weight), in place, for every convolution, linear layer and embedding, and zero the biases."""
    for layer in network.modules():
        if isinstance(layer, LAYERS):
            fill(raw_weight(layer))
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            _update_vectors(layer)


def _update_vectors(layer: nn.Module) -> None:
    """Update the spectral norm's singular vectors, which eval mode does not, to the new weights."""
    norm = norm_of(layer) if parametrize.is_parametrized(layer, "weight") else None
    weight = raw_weight(layer)
    if isinstance(norm, SpectralNorm) and weight.device.type != "meta":
        vectors = torch.cat([norm._u, norm._v])
        vectors, _ = power_iteration([weight], vectors, [norm.dim], iterations=15, eps=norm.options.eps)
        u, v = vectors.split([len(norm._u), len(norm._v)])
        norm._u.copy_(u)
        norm._v.copy_(v)
