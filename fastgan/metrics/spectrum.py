"""What frequencies images are made of: upsampling by transposed convolutions leaves marks there (Durall et al. 2020,
arXiv:2003.01826)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError

_BATCH = 256
#: Power of the rounding to whole gray levels, per frequency: below it there is nothing but that noise.
_ROUNDING = 1 / 12


def radial_spectrum(images: np.ndarray) -> Tensor:
    """Log power of uint8 images [N, C, H, W] in rings of equal frequency, in dB: float32 [N, min(H, W) // 2].

    Of the mean over channels (the brightness). Ring r holds frequencies from r + ½ to r + 1½ periods per shorter side;
    the constant part is left out.
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
    for start in range(0, len(images), _BATCH):
        gray = torch.from_numpy(np.array(images[start : start + _BATCH])).float().mean(1)
        power = torch.fft.fft2(gray, norm="ortho").abs().square().flatten(1)[:, chosen]
        mean = torch.zeros(len(gray), rings).index_add_(1, ring[chosen], power) / counts
        found.append(10 * (mean + _ROUNDING).log10())
    return torch.cat(found)


def spectral_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Root mean square, over the rings, of the difference of the mean log spectra, in dB. Images of one size."""
    if real.shape[2:] != fake.shape[2:]:
        raise UsageError(f"fake: expected images {list(real.shape[2:])} as the real ones, got {list(fake.shape[2:])}")
    gap = radial_spectrum(real).double().mean(0) - radial_spectrum(fake).double().mean(0)
    return float(gap.square().mean().sqrt())
