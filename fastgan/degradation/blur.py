"""Blur kernels with parameters of their own for each image, computed in one batch.

The families of Real-ESRGAN (arXiv:2107.10833, section 3.2): Gaussian kernels, generalized ones (Liu et al. 2020,
arXiv:2001.02192), plateau-shaped ones, and the circular low-pass filter (sinc) that causes ringing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from fastgan._util.random import Random

#: The kinds of kernel in the order of Real-ESRGAN's `kernel_prob`: (family, whether it is isotropic).
KINDS = (
    ("gaussian", True),
    ("gaussian", False),
    ("generalized", True),
    ("generalized", False),
    ("plateau", True),
    ("plateau", False),
)
_SMALLEST = 7  # pixels: of the sides that are drawn
_SHARP_SINC = 13  # pixels: kernels below it hold no lower cut-off than π/3


def gaussian_kernels(size: int, across: Tensor, along: Tensor, angle: Tensor, shape: Tensor | None = None) -> Tensor:
    """exp(−½ qᵝ), q = x ᵀ Σ⁻¹ x, each with sum 1: [N, size, size].

    size: pixels, odd. across, along: standard deviations in pixels along the two axes of the ellipse, [N]. angle: of
    the first axis in radians, [N]. shape: β of a generalized Gaussian, [N]; None for 1.
    """
    return normalized((-0.5 * _distance(size, across, along, angle, shape)).exp())


def plateau_kernels(size: int, across: Tensor, along: Tensor, angle: Tensor, shape: Tensor) -> Tensor:
    """1 / (1 + qᵝ), each with sum 1: [N, size, size]. Arguments as in `gaussian_kernels`."""
    return normalized(1 / (1 + _distance(size, across, along, angle, shape)))


def sinc_kernels(size: int, cutoff: Tensor) -> Tensor:
    """The ideal circular low-pass filter, each with sum 1: [N, size, size]. cutoff: ω in radians per pixel, [N]."""
    return normalized(_sinc(size, cutoff))


def normalized(kernels: Tensor, half: Tensor | None = None) -> Tensor:
    """Kernels [N, k, k] with sum 1. half: only so many pixels around the center are kept, [N]."""
    if half is not None:
        offset = _offsets(kernels).abs()
        inside = offset <= half[:, None]
        kernels = kernels * (inside[:, :, None] & inside[:, None, :])
    return kernels / kernels.sum((1, 2), keepdim=True)


def random_kernels(
    random: Random,
    n: int,
    size: int,
    kinds: Sequence[float],
    sinc: float,
    sigma: tuple[float, float],
    generalized: tuple[float, float],
    plateau: tuple[float, float],
) -> Tensor:
    """n random kernels [n, size, size], whose sides are odd numbers from 7 to `size`.

    kinds: the weights of KINDS. sinc: the probability of a low-pass filter instead. sigma: range of the standard
    deviations in pixels. generalized, plateau: ranges of β, which half of the time is below 1 and else above.
    """
    u = random.uniform(n, 9)
    half = _random_half(u[:, 0], size)
    across, along = (_between(u[:, i], *sigma) for i in (1, 2))
    total, starts = sum(kinds), [0.0, *accumulate(kinds)]
    kind = u[:, 3] * total

    def drawn(family: str, isotropic: bool | None = None) -> Tensor:
        """Which of the n kernels are of a family."""
        found = torch.zeros_like(kind, dtype=torch.bool)
        for i, (name, round_) in enumerate(KINDS):
            if name == family and isotropic in (None, round_):
                found |= (kind >= starts[i]) & (kind < starts[i + 1])
        return found

    is_round = drawn("gaussian", True) | drawn("generalized", True) | drawn("plateau", True)
    along = torch.where(is_round, across, along)
    angle = _between(u[:, 4], -math.pi, math.pi)
    shapes = {
        name: torch.where(u[:, 5] < 0.5, _between(u[:, 6], low, 1.0), _between(u[:, 6], 1.0, high))
        for name, (low, high) in (("generalized", generalized), ("plateau", plateau))
    }
    is_plateau = drawn("plateau")
    shape = torch.where(drawn("generalized"), shapes["generalized"], torch.ones_like(kind))
    shape = torch.where(is_plateau, shapes["plateau"], shape)
    distance = _distance(size, across, along, angle, shape)
    kernels = torch.where(is_plateau[:, None, None], 1 / (1 + distance), (-0.5 * distance).exp())
    low = torch.where(2 * half + 1 < _SHARP_SINC, math.pi / 3, math.pi / 5)
    filters = _sinc(size, torch.lerp(low, torch.full_like(low, math.pi), u[:, 7]))
    return normalized(torch.where((u[:, 8] < sinc)[:, None, None], filters, kernels), half)


def random_sinc(random: Random, n: int, size: int, probability: float) -> Tensor:
    """n random low-pass filters with cut-offs from π/3 to π, or with 1 − probability the unit impulse."""
    u = random.uniform(n, 3)
    filters = normalized(_sinc(size, _between(u[:, 0], math.pi / 3, math.pi)), _random_half(u[:, 1], size))
    center = _offsets(filters) == 0
    impulse = (center[:, None] & center[None, :]).to(filters.dtype)
    return torch.where((u[:, 2] < probability)[:, None, None], filters, impulse)


def _random_half(u: Tensor, size: int) -> Tensor:
    """Half of a side: (side − 1) / 2, whole numbers in the dtype of u."""
    most = size // 2
    least = min(_SMALLEST // 2, most)
    return least + (u * (most - least + 1)).floor()


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _distance(size: int, across: Tensor, along: Tensor, angle: Tensor, shape: Tensor | None) -> Tensor:
    """qᵝ at every pixel, [N, size, size]."""
    offset = torch.arange(size, dtype=across.dtype, device=across.device) - size // 2
    x, y = offset[None, None, :], offset[None, :, None]
    c, s, a, b = (each[:, None, None] for each in (angle.cos(), angle.sin(), across, along))
    q = ((c * x + s * y) / a).square() + ((c * y - s * x) / b).square()
    return q if shape is None else q.pow(shape[:, None, None])


def _sinc(size: int, cutoff: Tensor) -> Tensor:
    """ω J₁(ω r) / (2π r), at the center ω² / 4π."""
    offset = torch.arange(size, dtype=cutoff.dtype, device=cutoff.device) - size // 2
    radius = (offset[:, None].square() + offset[None, :].square()).sqrt()
    omega = cutoff[:, None, None]
    away = radius.clamp(min=1)
    ring = omega * torch.special.bessel_j1(omega * away) / (2 * math.pi * away)
    return torch.where(radius == 0, omega.square() / (4 * math.pi), ring)


def _offsets(kernels: Tensor) -> Tensor:
    size = kernels.shape[-1]
    return torch.arange(size, dtype=kernels.dtype, device=kernels.device) - size // 2
