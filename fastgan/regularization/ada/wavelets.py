"""Wavelet filters of the augmentations, as matrices that act on the rows or columns of images."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

#: Daubechies' least asymmetric wavelet with six vanishing moments (Ten Lectures on Wavelets, 1992, table 6.3), and the
#: shortest one with two: orthonormal low-pass filters, whose taps add up to the root of 2.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
SYM2 = tuple((a + b * math.sqrt(3)) / (4 * math.sqrt(2)) for a, b in ((1, 1), (3, 1), (3, -1), (1, -1)))
#: Bands of the image-space filter, from low to high frequencies.
BANDS = 4


def mirrored(index: Tensor, size: int) -> Tensor:
    """Integer positions reflected into [0, size − 1], around the centers of the first and the last pixel."""
    period = max(2 * size - 2, 1)
    index = index % period
    return torch.minimum(index, period - index)


@functools.lru_cache(maxsize=16)
def _band_filters() -> Tensor:
    """Symmetric filters, float64 [BANDS, taps], of the octaves [0, π/8], [π/8, π/4], [π/4, π/2] and [π/2, π].

    They add up to the identity: P and Q are the half-band filters of sym2, P + Q = 1, and the bands are P(z)P(z²)P(z⁴),
    P(z)P(z²)Q(z⁴), P(z)Q(z²) and Q(z).
    """
    low = torch.tensor(SYM2, dtype=torch.float64)
    half = _convolved(low, low.flip(0)) / 2
    identity = torch.zeros_like(half)
    identity[len(half) // 2] = 1
    bands, smooth = [], torch.ones(1, dtype=torch.float64)
    for level in range(BANDS - 1):
        p, q = (_spread(kernel, 1 << level) for kernel in (half, identity - half))
        bands.append(_convolved(smooth, q))
        smooth = _convolved(smooth, p)
    bands.append(smooth)
    taps = len(smooth)
    return torch.stack([torch.nn.functional.pad(b, ((taps - len(b)) // 2,) * 2) for b in reversed(bands)])


@functools.lru_cache(maxsize=16)
def _bands(size: int) -> Tensor:
    filters = _band_filters()
    taps = filters.shape[1]
    rows = torch.arange(size)[:, None].expand(size, taps)
    columns = mirrored(rows + torch.arange(taps) - taps // 2, size)
    found = torch.zeros(BANDS, size, size, dtype=torch.float64)
    for matrix, kernel in zip(found, filters, strict=True):
        matrix.index_put_((rows, columns), kernel.expand(size, taps), accumulate=True)
    return found


def bands(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[BANDS, size, size]: each takes the frequencies of a band from a row of pixels, which is mirrored at its ends."""
    return _bands(size).to(device, dtype)


def _convolved(a: Tensor, b: Tensor) -> Tensor:
    found = torch.zeros(len(a) + len(b) - 1, dtype=a.dtype)
    for i, value in enumerate(b):
        found[i : i + len(a)] += value * a
    return found


def _spread(kernel: Tensor, step: int) -> Tensor:
    found = torch.zeros((len(kernel) - 1) * step + 1, dtype=kernel.dtype)
    found[::step] = kernel
    return found
