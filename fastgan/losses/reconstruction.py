"""Losses between generated images and their target images, pixel by pixel."""

from __future__ import annotations

from torch import Tensor


def l1(fake: Tensor, target: Tensor) -> Tensor:
    """E |y − G(x)| over images, channels and pixels (Isola et al. 2017, arXiv:1611.07004, equation 3): a scalar.

    fake, target: floating point [N, C, H, W], paired. No gradient flows into target.
    """
    return (fake - target.detach()).abs().mean()
