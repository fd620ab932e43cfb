"""Structural similarity of images: the maps that losses and metrics average.

Wang et al. 2004 (Image quality assessment: from error visibility to structural similarity), with a Gaussian window of
11×11 pixels (σ 1.5) inside the image, K 0.01 and 0.03, and population variances; each channel by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.errors import UsageError

WINDOW, SIGMA = 11, 1.5
#: Of five scales, each half as large: Wang et al. 2003 (Multiscale structural similarity), section 3.2.
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: Below it a mean contrast is cut off: powers of negative numbers do not exist, and that of zero has no derivative.
_LEAST = 1e-6


def similarity_maps(x: Tensor, y: Tensor, span: float) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast and structure factor at each place of the window, each [N, C, H − 10, W − 10].

    x, y: float32 or float64 [N, C, H, W] in [0, span]. Differentiable in both. Raises UsageError for other shapes and
    for sides below 11 pixels.
    """
    if x.shape != y.shape or x.dim() != 4:
        raise UsageError(f"fake: expected images [N, C, H, W] of the targets' shape, got {[*x.shape]} and {[*y.shape]}")
    if min(x.shape[2:]) < WINDOW:
        raise UsageError(f"images: expected sides of at least {WINDOW} pixels for SSIM, got {list(x.shape[2:])}")
    at = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = (-(at**2) / (2 * SIGMA**2)).exp()
    window = window / window.sum()
    # Variances are differences of moments of which half types leave nothing.
    with torch.autocast(x.device.type, enabled=False):
        moments = torch.cat([x, y, x * x + y * y, x * y]).flatten(0, 1)[:, None]
        moments = F.conv2d(F.conv2d(moments, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))
    mean_x, mean_y, squares, products = moments.unflatten(0, (4, *x.shape[:2]))[:, :, :, 0]
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_products, mean_squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    contrast = (2 * (products - mean_products) + c2) / (squares - mean_squares + c2)
    return (2 * mean_products + c1) / (mean_squares + c1) * contrast, contrast


def structural_similarity(x: Tensor, y: Tensor, span: float) -> Tensor:
    """Mean SSIM over pixels and channels, [N], at most 1. As `similarity_maps`."""
    return similarity_maps(x, y, span)[0].mean((1, 2, 3))


def multiscale_similarity(x: Tensor, y: Tensor, span: float, scales: int = len(SCALES)) -> Tensor:
    """MS-SSIM [N], the mean over channels: contrasts of all scales and the SSIM of the last, each to its power.

    scales: the first so many of five, with powers that add up to 1. The rest as in `similarity_maps`; raises UsageError
    also for sides that are too small for so many: below 161 pixels for five.
    """
    if not 1 <= scales <= len(SCALES):
        raise UsageError(f"scales: expected a number from 1 to {len(SCALES)}, got {scales}")
    least = (WINDOW - 1) * 2 ** (scales - 1) + 1
    if min(x.shape[2:]) < least:
        raise UsageError(
            f"images: expected sides of at least {least} pixels for MS-SSIM of {scales} scales, got {[*x.shape[2:]]}"
        )
    total = x.new_ones(())
    for scale, power in enumerate(SCALES[:scales]):
        if scale:
            odd = [side % 2 for side in x.shape[2:]]
            x, y = (F.avg_pool2d(image, 2, padding=odd, count_include_pad=False) for image in (x, y))
        whole, contrast = similarity_maps(x, y, span)
        mean = (whole if scale == scales - 1 else contrast).mean((2, 3))
        total = total * mean.clamp(min=_LEAST) ** (power / sum(SCALES[:scales]))
    return total.mean(1)
