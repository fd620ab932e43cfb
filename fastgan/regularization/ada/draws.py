"""Choices and normal numbers from uniform ones, so that a step takes one tensor of random numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def chosen(u: Tensor, p: Tensor | None) -> Tensor:
    """Whether a transformation is applied to an image: with probability p, a scalar, or always. u: uniform, [N]."""
    return torch.ones_like(u, dtype=torch.bool) if p is None else u < p


def normal(u: Tensor) -> Tensor:
    """N(0, 1) from numbers uniform in [0, 1)."""
    tiny = 2.0**-24
    return torch.special.ndtri(u.clamp(tiny, 1 - tiny))
