"""Adaptive instance normalization (Huang and Belongie 2017, arXiv:1703.06868, equation 8)."""

from __future__ import annotations

from torch import Tensor

from fastgan.ops import channel_scale, instance_norm_act

EPSILON = 1e-8


def adaptive_instance_norm(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float = EPSILON) -> Tensor:
    """scale · (x − μ) / √(σ² + epsilon) + shift, μ and σ² being mean and variance of each map; with gradients of every
    order.

    x: [N, C, *] floating, of more than one pixel. scale, shift: [N, C] in x's dtype or float32. Returns x's shape and
    dtype. Statistics and products are computed in float32 (float64 for double). Raises TypeError or ValueError naming
    the argument.
    """
    y = channel_scale(instance_norm_act(x, "linear", epsilon=epsilon), scale)
    return y + shift.to(y.dtype).view(*shift.shape, *[1] * (x.dim() - 2))
