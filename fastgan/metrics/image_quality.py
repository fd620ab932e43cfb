"""PSNR and SSIM of images against their targets, as super-resolution is measured: on pixels of 0 to 255.

With `border` cut off and on brightness alone they are the figures of BasicSR and of papers that follow it. All is
computed in float64 where the images are, and nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.losses.similarity import structural_similarity

#: dB of images that are equal.
MOST = 100.0
#: ITU-R BT.601 of R, G and B in [0, 1], and of black.
_LUMA, _BLACK = (65.481, 128.553, 24.966), 16.0


def pixels(images: Tensor, range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Images of this range as a file of 8 bits has them: float64 [N, C, H, W], whole numbers from 0 to 255."""
    low, high = range
    return ((images.detach().double() - low) * (255 / (high - low))).clamp(0, 255).round()


def luma(images: Tensor) -> Tensor:
    """Brightness Y of RGB pixels [N, 3, H, W] in [0, 255], in [16, 235], not rounded: [N, 1, H, W]."""
    if images.dim() != 4 or images.shape[1] != 3:
        raise UsageError(f"images: expected RGB images [N, 3, H, W] for their brightness, got {list(images.shape)}")
    weights = images.new_tensor(_LUMA).view(3, 1, 1) / 255
    return (images * weights).sum(1, keepdim=True) + _BLACK


def psnr(images: Tensor, targets: Tensor, *, border: int = 0, y: bool = False) -> Tensor:
    """Peak signal-to-noise ratio 10 log10(255² / mean squared error) of each image, float64 [N], in dB; at most 100.

    images, targets: pixels [N, C, H, W] in [0, 255]. border: pixels that are cut off at each side, in super-resolution
    as many as the scale. y: of the brightness of RGB images alone. Raises UsageError for shapes that do not fit.
    """
    a, b = _compared(images, targets, border, y)
    error = (a - b).square().flatten(1).mean(1)
    return (10 * (255**2 / error).log10()).clamp(max=MOST)


def ssim(images: Tensor, targets: Tensor, *, border: int = 0, y: bool = False) -> Tensor:
    """Mean structural similarity of each image, float64 [N], at most 1: `fastgan.losses.similarity`. As `psnr`."""
    return structural_similarity(*_compared(images, targets, border, y), 255.0)


def _compared(images: Tensor, targets: Tensor, border: int, y: bool) -> tuple[Tensor, Tensor]:
    if images.shape != targets.shape or images.dim() != 4:
        raise UsageError(
            f"images: expected [N, C, H, W] of the targets' shape {list(targets.shape)}, got {list(images.shape)}"
        )
    if not 0 <= 2 * border < min(images.shape[2:]):
        raise UsageError(
            f"border: expected a number from 0 to less than half of the sides {list(images.shape[2:])}, got {border}"
        )
    both = torch.stack([images.detach().double(), targets.detach().double()])
    both = both[..., border : both.shape[-2] - border, border : both.shape[-1] - border]
    if y:
        return luma(both[0]), luma(both[1])
    return both[0], both[1]
