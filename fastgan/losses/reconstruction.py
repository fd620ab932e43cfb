"""Distances between images and their targets, pixel by pixel."""

from __future__ import annotations

from torch import Tensor


def l1(fake: Tensor, target: Tensor) -> Tensor:
    """E |y − G(x)| over pixels: the distance to a paired target, Isola et al. 2017 (arXiv:1611.07004), equation 3."""
    return (fake - target.detach()).abs().mean()
