"""Specification of instance_norm_act and its gradient, in plain PyTorch.

x [N, C, *] of any floating dtype; the accumulation dtype is float32 for the half types, else x's own. Per sample and
channel, over the M pixels (Ulyanov et al. 2016, arXiv:1607.08022):

1. mean = Σ x / M, scale = 1 / √(Σ (x − mean)² / M + epsilon), both in the accumulation dtype
2. v = (x − mean) · scale
3. y = v where v > 0, else alpha · v, rounded once; alpha is 1 for no activation and 0 for a ReLU

Gradient, with g = dy where v > 0, else alpha · dy:

4. dx = scale · (g − mean(g) − v · mean(g · v)), rounded once

It is linear in dy. Its own gradients for a cotangent ddx of dx are plain PyTorch, which differentiates itself
(`grad_grad`): with u = scale · (ddx − mean(ddx) − v · mean(ddx · v)) and w = dx, both before rounding,

5. ddy = u where v > 0, else alpha · u
6. dx' = −scale · (mean(g · v) · u + mean(ddx · v) · w) − v · scale² · (mean(ddx · g) − mean(ddx) · mean(g)
   − mean(ddx · v) · mean(g · v))

Results are dense, in the layout that `memory_format` chooses from x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format
from fastgan.ops.bias_act.reference import accumulation_dtype


def _mean(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


def _spread(value: Tensor, x: Tensor) -> Tensor:
    return value.view(*value.shape, *[1] * (x.dim() - 2))


def _activated(v: Tensor, value: Tensor, alpha: float) -> Tensor:
    return torch.where(v > 0, value, alpha * value)


def instance_norm_act(x: Tensor, alpha: float, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, C, *] → y like x, mean [N, C], scale [N, C]."""
    wide = x.to(accumulation_dtype(x.dtype))
    mean = _mean(wide)
    scale = torch.rsqrt(_mean((wide - mean).square()) + epsilon)
    v = (wide - mean) * scale
    y = _activated(v, v, alpha).to(x.dtype)
    return dense(y, memory_format(x)), mean.reshape(x.shape[:2]), scale.reshape(x.shape[:2])


def instance_norm_act_grad(dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, alpha: float, epsilon: float) -> Tensor:
    """dy, x [N, C, *], mean and scale [N, C] of the forward pass → dx like x."""
    wide = accumulation_dtype(x.dtype)
    v = (x.to(wide) - _spread(mean, x)) * _spread(scale, x)
    g = _activated(v, dy.to(wide), alpha)
    dx = _spread(scale, x) * (g - _mean(g) - v * _mean(g * v))
    return dense(dx.to(x.dtype), memory_format(x))


def sums_grad(dmean: Tensor | None, dscale: Tensor | None, x: Tensor, epsilon: float) -> Tensor:
    """The gradient for x of mean and scale, for their cotangents [N, C]."""
    wide, pixels = x.to(accumulation_dtype(x.dtype)), x.shape[2:].numel()
    dx = torch.zeros_like(wide)
    if dmean is not None:
        dx = dx + _spread(dmean, x) / pixels
    if dscale is not None:
        centered = wide - _mean(wide)
        dx = dx - _spread(dscale, x) * (_mean(centered.square()) + epsilon) ** -1.5 * centered / pixels
    return dx.to(x.dtype)


def grad_grad(ddx: Tensor, dy: Tensor, x: Tensor, alpha: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """(ddy, dx'): the gradients of instance_norm_act_grad for dy and for x, of which mean and scale are functions."""
    wide = accumulation_dtype(x.dtype)
    ddx, dy, z = ddx.to(wide), dy.to(wide), x.to(wide)
    centered = z - _mean(z)
    scale = torch.rsqrt(_mean(centered.square()) + epsilon)
    v = centered * scale
    g = _activated(v, dy, alpha)
    of_ddx, of_g = _mean(ddx * v), _mean(g * v)
    u = scale * (ddx - _mean(ddx) - v * of_ddx)
    w = scale * (g - _mean(g) - v * of_g)
    both = _mean(ddx * g) - _mean(ddx) * _mean(g) - of_ddx * of_g
    dx = -scale * (of_g * u + of_ddx * w) - v * scale.square() * both
    return _activated(v, u, alpha).to(x.dtype), dx.to(x.dtype)
