"""Images beside the very images they should be: PSNR, and SSIM (Wang et al. 2004)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.metrics.kid import Estimate

_WINDOW, _SIGMA = 11, 1.5
_BATCH = 16


def psnr(images: np.ndarray, truth: np.ndarray) -> Estimate:
    """Mean over the images of 10 log10(255² / mean squared error), in dB, of uint8 [N, C, H, W] against their truths.

    An image that equals its truth has no PSNR; it counts as 100 dB.
    """
    _same(images, truth)
    found = []
    for a, b in _batches(images, truth):
        error = (a - b).square().flatten(1).mean(1)
        found.append((10 * (255**2 / error).log10()).clamp(max=100))
    return _estimate(torch.cat(found))


def ssim(images: np.ndarray, truth: np.ndarray) -> Estimate:
    """Mean structural similarity of uint8 images [N, C, H, W] with their truths; 1 for equal ones.

    A Gaussian window of 11 pixels (σ 1.5) wholly inside the image, K 0.01 and 0.03, range 255, mean over channels.
    """
    _same(images, truth)
    if min(images.shape[2:]) < _WINDOW:
        raise UsageError(f"images: expected sides of at least {_WINDOW} pixels for SSIM, got {list(images.shape[2:])}")
    at = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = (-(at**2) / (2 * _SIGMA**2)).exp()
    window /= window.sum()

    def blur(x: Tensor) -> Tensor:
        plane = x.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(plane, window[None, None, None]), window[None, None, :, None])

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for a, b in _batches(images, truth):
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
        covariance = blur(a * b) - mean_a * mean_b
        similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        similar /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
        found.append(similar.flatten(1).mean(1).view(a.shape[:2]).mean(1))
    return _estimate(torch.cat(found))


def _same(images: np.ndarray, truth: np.ndarray) -> None:
    if images.shape != truth.shape:
        raise UsageError(f"images: expected {list(truth.shape)}, one for each truth, got {list(images.shape)}")


def _batches(images: np.ndarray, truth: np.ndarray):  # type: ignore[no-untyped-def]
    for start in range(0, len(images), _BATCH):
        yield tuple(torch.from_numpy(np.array(part[start : start + _BATCH])).double() for part in (images, truth))


def _estimate(values: Tensor) -> Estimate:
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return Estimate(float(values.mean()), error)
