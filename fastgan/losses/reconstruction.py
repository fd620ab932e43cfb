"""Losses between generated images and their targets, pixel by pixel, by structure, or by frequency.

fake, target: floating point [N, C, H, W], paired. No gradient flows into target. Each returns a scalar in float32 at
least (float64 for double), also of half types and under autocast. range: of the images' values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.losses.similarity import SCALES, multiscale_similarity, structural_similarity


def l1(fake: Tensor, target: Tensor) -> Tensor:
    """E |y − G(x)| over images, channels and pixels (Isola et al. 2017, arXiv:1611.07004, equation 3)."""
    return _difference(fake, target).abs().mean()


def charbonnier(fake: Tensor, target: Tensor, *, epsilon: float = 1e-3) -> Tensor:
    """E √((y − G(x))² + ε²), which is L1 with a derivative at zero: Lai et al. 2017 (arXiv:1710.01992, equation 1)."""
    if not epsilon > 0:
        raise UsageError(f"epsilon: expected a number > 0, got {epsilon}")
    return (_difference(fake, target).square() + epsilon**2).sqrt().mean()


def ssim(fake: Tensor, target: Tensor, *, range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """1 − E SSIM, with the window of `fastgan.losses.similarity`: 0 for equal images."""
    x, y, span = _from_zero(fake, target, range)
    return 1 - structural_similarity(x, y, span).mean()


def ms_ssim(
    fake: Tensor, target: Tensor, *, range: tuple[float, float] = (-1.0, 1.0), scales: int = len(SCALES)
) -> Tensor:
    """1 − E MS-SSIM, of images with sides of at least 161 pixels for five scales, 81 for four, 41 for three."""
    x, y, span = _from_zero(fake, target, range)
    return 1 - multiscale_similarity(x, y, span, scales).mean()


def focal_frequency(fake: Tensor, target: Tensor, *, alpha: float = 1.0) -> Tensor:
    """E w |F(y) − F(G(x))|² over frequencies: Jiang et al. 2021 (arXiv:2012.12821, equations 8 and 9).

    F: the orthonormal Fourier transform of an image's channel. w = |F(y) − F(G(x))|^α, divided by its maximum, a
    constant for the derivative: frequencies that are far off count more.
    """
    difference = _difference(fake, target)
    if difference.dim() != 4:
        raise UsageError(f"fake: expected images [N, C, H, W], got {list(fake.shape)}")
    # The transform is linear, and of real values: half of the frequencies, of which all but some columns count twice.
    parts = torch.view_as_real(torch.fft.rfft2(difference, norm="ortho"))
    power = parts.square().sum(-1)
    weight = power.detach() ** (alpha / 2)
    weight = weight / weight.amax((2, 3), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    width, columns = difference.shape[3], power.shape[3]
    total = 2 * (weight * power).sum() - (weight * power)[..., 0].sum()
    if width % 2 == 0:
        total = total - (weight * power)[..., columns - 1].sum()
    return total / difference.numel()


def gradient(fake: Tensor, target: Tensor) -> Tensor:
    """E |∂ₓ(y − G(x))| + E |∂ᵧ(y − G(x))| of Sobel's derivatives inside the image: sharpness of edges.

    Sobel's kernels have the sum 4 on one side, so that a step of height 1 counts as 4.
    """
    d = _difference(fake, target)
    if d.dim() != 4 or min(d.shape[2:]) < 3:
        raise UsageError(f"fake: expected images [N, C, H, W] with sides of at least 3 pixels, got {list(fake.shape)}")
    across, down = d[..., 2:] - d[..., :-2], d[..., 2:, :] - d[..., :-2, :]
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return across.abs().mean() + down.abs().mean()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _difference(fake: Tensor, target: Tensor) -> Tensor:
    if fake.shape != target.shape:
        raise UsageError(f"fake: expected the targets' shape {list(target.shape)}, got {list(fake.shape)}")
    return _wide(fake) - _wide(target.detach())


def _from_zero(fake: Tensor, target: Tensor, range: tuple[float, float]) -> tuple[Tensor, Tensor, float]:
    """Both with the darkest value at 0, as SSIM takes them, and the span of values."""
    low, high = range
    if not low < high:
        raise UsageError(f"range: expected a lower and a higher number, got {range}")
    return _wide(fake) - low, _wide(target.detach()) - low, high - low
