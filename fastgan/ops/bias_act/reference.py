"""Specification of bias_act and its gradients, in plain PyTorch. The other back-ends are tested against it.

y = clamp(activation(x + b) · gain, −clamp, +clamp)

x [N, C, *] of any floating dtype, b [C] in x's dtype or float32. The steps, with their rounding points:

1. x and b are widened to the accumulation dtype (float32 for the half types, else x's own)
2. p = x + b, broadcast along dimension 1
3. v = activation(p) · gain
4. v is limited to [−clamp, clamp] where a clamp is given; NaN stays NaN
5. y = v rounded once to x's dtype

Results are dense, contiguous or channels_last as `_memory_format.memory_format` chooses from the first tensor. The
derivative at a kink is the left one, and it is zero on the clamp. Piecewise-linear activations save y and read the side
of the kink from its sign, which requires gain > 0 and alpha >= 0.

Fusing these follows the bias_act of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958, appendix B).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format
from fastgan.ops.bias_act.activations import ACTIVATIONS


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half types, else the dtype itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _widen(x: Tensor, bias: Tensor | None) -> Tensor:
    wide = x.to(accumulation_dtype(x.dtype))
    if bias is None:
        return wide
    return wide + bias.to(wide.dtype).view(1, -1, *[1] * (x.dim() - 2))


def bias_act(x: Tensor, bias: Tensor | None, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """x [N, C, *], bias [C] or None → y like x."""
    layout = memory_format(x)
    y = ACTIVATIONS[act].value(_widen(x, bias), alpha)
    if gain != 1:
        y = y * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return dense(y.to(x.dtype), layout)


def slope(saved: Tensor, bias: Tensor | None, options: tuple[str, float, float, float | None], order: int) -> Tensor:
    """The order-th factor in the chain of derivatives (1, 2 or 3) in the accumulation dtype, like saved.

    order 1 is dy/dp; each further order is the derivative of the one before with respect to `saved`. Differentiable in
    saved and bias, the limits of the clamp being constants.
    """
    act, alpha, gain, clamp = options
    row = ACTIVATIONS[act]
    wide = _widen(saved, bias)
    if row.saves == "input":
        u, scale = wide, gain
    else:
        u, scale = wide / gain, gain ** (2 - order)
    derivative = (row.d1, row.d2, row.d3)[order - 1]
    assert derivative is not None, f"{act} has no derivative of order {order}"
    result = derivative(u, alpha) * scale
    if clamp is not None:
        value = row.value(wide, alpha) * gain if row.saves == "input" else wide
        result = torch.where(value.detach().abs() < clamp, result, 0.0)
    return result


def bias_act_grad(
    dy: Tensor,
    saved: Tensor,
    bias: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    bias_grad: bool,
) -> tuple[Tensor, Tensor]:
    """dx = dy · slope(saved), and db = Σ dx over all but the channel, before dx is rounded.

    dy [N, C, *]; saved like dy: the input x where the activation saves it, else the output y; bias [C] only with
    a saved input. Returns dx like dy, in saved's layout, and db [C] in the accumulation dtype ([0] without bias_grad).
    """
    wide = dy.to(accumulation_dtype(dy.dtype)) * slope(saved, bias, (act, alpha, gain, clamp), 1)
    dims = [0, *range(2, dy.dim())]
    db = wide.sum(dims) if bias_grad else wide.new_empty(0)
    return dense(wide.to(dy.dtype), memory_format(saved)), db


def bias_act_grad_grad(
    ddx: Tensor,
    dy: Tensor,
    saved: Tensor,
    bias: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> tuple[Tensor, Tensor]:
    """Cotangents of dy and of saved for the cotangent ddx of dx; all like dy. Only for curved activations."""
    wide = ddx.to(accumulation_dtype(ddx.dtype))
    ddy = wide * slope(saved, bias, (act, alpha, gain, clamp), 1)
    dsaved = wide * dy * slope(saved, bias, (act, alpha, gain, clamp), 2)
    layout = memory_format(saved)
    return dense(ddy.to(dy.dtype), layout), dense(dsaved.to(dy.dtype), layout)
