"""Adaptive instance normalization (Huang and Belongie 2017, arXiv:1703.06868, equation 8)."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from fastgan.ops import channel_dot, channel_scale

EPSILON = 1e-8


def adaptive_instance_norm(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float = EPSILON) -> Tensor:
    """scale · (x − μ) / √(σ² + epsilon) + shift, μ and σ² being mean and variance of each map; with gradients of every
    order.

    x: [N, C, *] floating. scale, shift: [N, C] in x's dtype or float32. Returns [N, C, *] in x's dtype. The statistics
    and both factors are computed in float32 (float64 for double). Raises TypeError or ValueError naming the argument.
    """
    pixels = [1] * (x.dim() - 2)
    # Centered first: sums of x² minus that of the mean lose too many digits where the deviation is small.
    wide = x if x.dtype == torch.float64 else x.float()
    centered = wide - wide.mean(tuple(range(2, x.dim())), keepdim=True)
    variance = channel_dot(centered, centered) / prod(x.shape[2:])
    y = channel_scale(centered, scale.to(wide.dtype) * torch.rsqrt(variance + epsilon))
    return (y + shift.to(wide.dtype).view(*shift.shape, *pixels)).to(x.dtype)
