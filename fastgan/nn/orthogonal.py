"""Orthogonal regularization (Brock et al. 2019, arXiv:1809.11096, section 3.1)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan.errors import UsageError
from fastgan.nn.spectral_group import LAYERS


def orthogonal_regularizer(network: nn.Module, weight: float = 1e-4) -> Tensor:
    """weight · Σ ‖W Wᵀ ∘ (1 − I)‖² over all layers, a scalar: it makes the rows of W orthogonal, of any length.

    network: its convolutions and linear layers are included, each weight flattened to [outputs, inputs] and without its
    spectral norm; embeddings are not. The paper's equation 3; its public PyTorch implementation adds half of this
    gradient. Raises UsageError where there is no such layer.
    """
    terms = []
    for layer in network.modules():
        if isinstance(layer, LAYERS) and not isinstance(layer, nn.Embedding):
            rows = raw_weight(layer).flatten(1)
            products = rows @ rows.T
            terms.append((products - products.diagonal().diag()).square().sum())
    if not terms:
        raise UsageError(f"network: expected layers with weights, got none in {type(network).__name__}")
    return weight * torch.stack(terms).sum()


def raw_weight(layer: nn.Module) -> Tensor:
    """A layer's weight parameter, before spectral norm and other parametrizations."""
    if parametrize.is_parametrized(layer, "weight"):
        return cast(Any, layer.parametrizations)["weight"].original
    return cast(Tensor, layer.weight)
