"""Resizing by area, bilinearly and bicubically, and the bicubic downscaling by which super-resolution is measured."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.degradation.filters import mirrored
from fastgan.errors import UsageError
from fastgan.ops import upfirdn2d

#: By name: mode of torch.nn.functional.interpolate, and whether a smaller result is free of aliasing.
MODES = {
    "area": ("area", False),
    "bilinear": ("bilinear", False),
    "bicubic": ("bicubic", False),
    "bilinear-antialias": ("bilinear", True),
    "bicubic-antialias": ("bicubic", True),
}


def resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Images [N, C, H, W] to [N, C, *size]. mode: one of MODES; bicubic ones may leave [0, 1].

    "bilinear" and "bicubic" take 2 × 2 and 4 × 4 pixels however small the result is, as Real-ESRGAN does it; with
    "-antialias" the filter widens, as Pillow does it. Raises UsageError for another mode.
    """
    if mode not in MODES:
        raise UsageError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    if images.shape[2:] == size:
        return images
    name, antialias = MODES[mode]
    return F.interpolate(images, size, mode=name, antialias=antialias)


def downscale_bicubic(images: Tensor, scale: int) -> Tensor:
    """Images [N, C, H, W] made smaller by a whole number, as MATLAB's imresize does: [N, C, H / scale, W / scale].

    The cubic kernel of Keys 1981 (a = −½) widened by the scale; beyond the edges images are mirrored. This is how the
    low-resolution images of DIV2K, Set5, Set14 and others were made, except that those are rounded to 8 bits. Values
    may leave [0, 1] a little. Raises UsageError for a scale that does not divide the size.
    """
    if scale < 1 or images.shape[2] % scale or images.shape[3] % scale:
        raise UsageError(
            f"scale: expected a number that divides the size of the images, {images.shape[2]}×{images.shape[3]}, got"
            f" {scale}"
        )
    if scale == 1:
        return images
    taps = _taps(scale, images.device)
    margin = (len(taps) - scale) // 2
    return upfirdn2d(mirrored(images, margin, edge_twice=True), taps, down=scale)


@cache
@torch.inference_mode(False)  # what is kept may meet a gradient later
def _taps(scale: int, device: torch.device) -> Tensor:
    """The 4 · scale (for odd scales 4 · scale − 1) weights of one output pixel, the same for all. float32."""
    count = 4 * scale - scale % 2
    x = ((torch.arange(count, dtype=torch.float64) - (count - 1) / 2) / scale).abs()
    near = (1.5 * x - 2.5) * x.square() + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, far)
    return (weights / weights.sum()).float().to(device)
