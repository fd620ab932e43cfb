"""Filters of images, one for each image or one for all, and sharpening. Beyond its edges an image is mirrored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops import upfirdn2d

_USM_TAPS = 51
_USM_SIGMA = 8.0  # OpenCV's 0.3 · ((taps − 1) / 2 − 1) + 0.8
_USM_WEIGHT = 0.5
_USM_THRESHOLD = 10 / 255


def filter_each(images: Tensor, kernels: Tensor) -> Tensor:
    """Each image filtered with its own kernel: the correlation, of the size of the images.

    images: float [N, C, H, W]. kernels: [N, k, k], k odd.
    """
    n, channels, height, width = images.shape
    weights = kernels.repeat_interleave(channels, 0)[:, None]
    # One group for each channel of each image: a depthwise convolution.
    padded = mirrored(images, kernels.shape[-1] // 2).reshape(1, n * channels, *_padded_size(images, kernels.shape[-1]))
    return F.conv2d(padded, weights, groups=n * channels).view(n, channels, height, width)


def sharpen(images: Tensor) -> Tensor:
    """Unsharp masking as Real-ESRGAN sharpens its targets: [N, C, H, W] in [0, 1], and so is the result.

    Half of what a Gaussian blur (51 taps, σ = 8) removes is added again where that is more than 10 gray levels, with
    a mask that is blurred in the same way.
    """
    removed = images - _blurred(images)
    mask = _blurred((removed.abs() > _USM_THRESHOLD).to(images.dtype))
    sharp = (images + _USM_WEIGHT * removed).clamp(0, 1)
    return torch.lerp(images, sharp, mask)


def mirrored(images: Tensor, pad: int, *, edge_twice: bool = False) -> Tensor:
    """Images [N, C, H, W] with `pad` mirrored pixels on each side, however small they are: [N, C, H + 2 pad, ...].

    edge_twice: whether the mirror lies at the border of the outermost pixels, not in their centers.
    """
    for axis in (2, 3):
        side, skipped = images.shape[axis], int(not edge_twice)
        if pad + skipped > side:
            images = _mirrored_again(images, pad, axis, edge_twice)
            continue
        before = images.narrow(axis, skipped, pad).flip(axis)
        after = images.narrow(axis, side - skipped - pad, pad).flip(axis)
        images = torch.cat([before, images, after], axis)
    return images


def _mirrored_again(images: Tensor, pad: int, axis: int, edge_twice: bool) -> Tensor:
    """An axis shorter than the padding: mirror images of mirror images."""
    side = images.shape[axis]
    period = 2 * side if edge_twice else max(2 * side - 2, 1)
    index = torch.arange(-pad, side + pad, device=images.device).remainder(period)
    return images.index_select(axis, torch.minimum(index, period - int(edge_twice) - index))


def _blurred(images: Tensor) -> Tensor:
    offset = torch.arange(_USM_TAPS, dtype=images.dtype, device=images.device) - _USM_TAPS // 2
    taps = (-0.5 * (offset / _USM_SIGMA).square()).exp()
    return upfirdn2d(mirrored(images, _USM_TAPS // 2), taps / taps.sum())


def _padded_size(images: Tensor, taps: int) -> tuple[int, int]:
    return images.shape[2] + taps - 1, images.shape[3] + taps - 1
