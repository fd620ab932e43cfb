"""Style mixing: some images are made of the styles of two latents, so that layers do not rely on each other's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.nn.moving_averages import averages_kept


def mixed_styles(
    mapping: nn.Module, z: Tensor, condition: Tensor | None, other: Tensor, u: Tensor, probability: float
) -> Tensor:
    """Styles [N, layers, w_dim] of latents z [N, z_dim], mixed with those of `other` [N, z_dim]. u: uniform, [N, 2].

    Karras et al. 2019 (arXiv:1812.04948, section 3.1): where u[:, 0] is below the probability, layers from a uniform
    cut-off in 1 to layers − 1 on take the styles of the other latent.
    """
    w = mapping(z, condition)
    with averages_kept(mapping):
        second = mapping(other, condition)
    layers = w.shape[1]
    cutoff = torch.where(u[:, 0] < probability, 1 + (u[:, 1] * (layers - 1)).long(), layers)
    return torch.where((torch.arange(layers, device=w.device) >= cutoff[:, None])[:, :, None], second, w)
