"""Color augmentation: all transformations of an image's colors as one affine map (arXiv:2006.06676, appendix B)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.regularization.ada.draws import chosen, normal


def color_maps(u: Tensor, p: Tensor | None) -> Tensor:
    """Brightness, contrast, luma flip, hue and saturation: [N, 3, 4], a matrix and an offset. u: uniform, [N, 10].

    Five choices with probability p; brightness from N(0, 0.2²) is added, contrast 2^N(0, 0.5²) multiplies, a luma flip
    (in half of those chosen) mirrors colors at the plane of equal sums, hue rotates by a uniform angle around the gray
    axis, saturation 2^N(0, 1) multiplies the distance from it.
    """
    brightness, contrast, flip, hue, saturation = (chosen(u[:, i], p) for i in range(5))
    ones, zeros = torch.ones_like(u[:, 0]), torch.zeros_like(u[:, 0])
    eye = torch.eye(3, dtype=u.dtype, device=u.device)
    gray = torch.full_like(eye, 1 / 3)  # the projection onto the gray axis
    offset = torch.where(brightness, 0.2 * normal(u[:, 5]), zeros)
    factor = torch.where(contrast, torch.exp2(0.5 * normal(u[:, 6])), ones)
    mirror = torch.where(flip & (u[:, 7] < 0.5), -ones, ones)
    angle = torch.where(hue, (2 * u[:, 8] - 1) * math.pi, zeros)
    vivid = torch.where(saturation, torch.exp2(normal(u[:, 9])), ones)
    # All matrices are a part along the gray axis and a rotation with a scale across it, so that they commute.
    turn = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=u.dtype, device=u.device) / math.sqrt(3)
    along = (factor * mirror)[:, None, None] * gray
    across = (factor * vivid)[:, None, None] * (
        torch.cos(angle)[:, None, None] * (eye - gray) + torch.sin(angle)[:, None, None] * turn
    )
    moved = (offset * factor * mirror)[:, None, None].expand(-1, 3, 1)
    return torch.cat([along + across, moved], 2)


def recolored(images: Tensor, maps: Tensor) -> Tensor:
    """Images [N, C, H, W] with colors mapped by [N, 3, 4]; of one channel as gray ones, which stay gray."""
    maps = maps.to(images.dtype)
    if images.shape[1] == 1:
        gray = maps[:, :, :3].sum(2).mean(1), maps[:, :, 3].mean(1)
        return images * gray[0].view(-1, 1, 1, 1) + gray[1].view(-1, 1, 1, 1)
    mixed = maps[:, :, :3] @ images.flatten(2) + maps[:, :, 3:]
    return mixed.view_as(images)
