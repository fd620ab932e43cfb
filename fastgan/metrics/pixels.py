"""Metrics of pixels alone: PSNR and SSIM of paired images, and the distance of radial power spectra."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.metrics import image_quality
from fastgan.metrics.kid import Estimate

_PAIRS, _IMAGES = 16, 256  # in a batch
#: Power per frequency of rounding to integer gray levels; it keeps the logarithm of empty frequencies finite.
_ROUNDING = 1 / 12


def psnr(images: np.ndarray, truth: np.ndarray) -> Estimate:
    """Mean of the peak signal-to-noise ratios 10 log10(255² / mean squared error), in dB, and its standard error.

    images, truth: uint8 [N, C, H, W]. An image that equals its truth counts as 100 dB. Raises UsageError for shapes
    that differ.
    """
    _check_pairs(images, truth)
    return _estimate(torch.cat([image_quality.psnr(a, b) for a, b in _pairs(images, truth)]))


def ssim(images: np.ndarray, truth: np.ndarray) -> Estimate:
    """Mean structural similarity of uint8 images [N, C, H, W] and their truths, at most 1, and its standard error.

    Wang et al. 2004 (Image quality assessment: from error visibility to structural similarity), with a Gaussian window
    of 11×11 pixels (σ 1.5) inside the image, K 0.01 and 0.03, range 255, averaged over channels. Raises UsageError for
    shapes that differ and sides below 11 pixels.
    """
    _check_pairs(images, truth)
    return _estimate(torch.cat([image_quality.ssim(a, b) for a, b in _pairs(images, truth)]))


def _check_pairs(images: np.ndarray, truth: np.ndarray) -> None:
    if images.shape != truth.shape:
        raise UsageError(f"images: expected {list(truth.shape)}, one for each truth, got {list(images.shape)}")


def _pairs(images: np.ndarray, truth: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of both, as float64."""
    for start in range(0, len(images), _PAIRS):
        a, b = (torch.from_numpy(np.array(part[start : start + _PAIRS])).double() for part in (images, truth))
        yield a, b


def _estimate(values: Tensor) -> Estimate:
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return Estimate(float(values.mean()), error)


def spectral_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Root mean square difference of the mean radial log power spectra of uint8 images of one size, in dB.

    It shows blur, noise, and the artifacts of upsampling by transposed convolutions (Durall et al. 2020,
    arXiv:2003.01826). real, fake: [N, C, H, W] and [M, C, H, W].
    """
    if real.shape[2:] != fake.shape[2:]:
        raise UsageError(f"fake: expected images {list(real.shape[2:])} as the real ones, got {list(fake.shape[2:])}")
    gap = radial_spectrum(real).double().mean(0) - radial_spectrum(fake).double().mean(0)
    return float(gap.square().mean().sqrt())


def radial_spectrum(images: np.ndarray) -> Tensor:
    """Log power of uint8 images [N, C, H, W] in rings of equal frequency, in dB: float32 [N, min(H, W) // 2].

    Of the mean over channels (brightness). Ring r holds frequencies from r + ½ to r + 1½ periods per shorter side; the
    constant component is omitted. Raises UsageError for sides below 4 pixels.
    """
    height, width = images.shape[2:]
    side = min(height, width)
    if side < 4:
        raise UsageError(f"images: expected sides of at least 4 pixels for a spectrum, got {height}×{width}")
    fy = torch.fft.fftfreq(height)[:, None] * side
    fx = torch.fft.fftfreq(width)[None] * side
    ring = (fy**2 + fx**2).sqrt().round().long().flatten() - 1
    rings = side // 2
    chosen = (ring >= 0) & (ring < rings)
    counts = torch.bincount(ring[chosen], minlength=rings)
    found = []
    for start in range(0, len(images), _IMAGES):
        gray = torch.from_numpy(np.array(images[start : start + _IMAGES])).float().mean(1)
        power = torch.fft.fft2(gray, norm="ortho").abs().square().flatten(1)[:, chosen]
        mean = torch.zeros(len(gray), rings).index_add_(1, ring[chosen], power) / counts
        found.append(10 * (mean + _ROUNDING).log10())
    return torch.cat(found)
