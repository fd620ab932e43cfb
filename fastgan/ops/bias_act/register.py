"""bias_act as a family of three ops. Each is the derivative of the previous one:

bias_act → bias_act_grad → (piecewise linear) bias_act_grad again, or (curved) bias_act_grad_grad → plain PyTorch
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops._memory_format import empty, memory_format
from fastgan.ops._zero_gradients import reach_leaves
from fastgan.ops.bias_act import cpu, reference, triton
from fastgan.ops.bias_act.activations import ACTIVATIONS

_OPTIONS = "str act, float alpha, float gain, float? clamp"


def _like(x: Tensor, saved: Tensor) -> Tensor:
    return empty(x, memory_format(saved))


# --- forward ---------------------------------------------------------------------------------------------------------


def _save_forward(ctx, inputs, output):
    x, bias, act, *options = inputs
    ctx.options = (act, *options)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.reaches_leaves, ctx.biases = drops_zeros(act), [] if bias is None else [bias]
    if ACTIVATIONS[act].saves == "input":
        ctx.save_for_backward(x, bias)
    else:
        ctx.save_for_backward(output_to_save(output, ctx.options), None)


def _forward_formula(ctx, dy):
    saved, bias = ctx.saved_tensors
    bias_grad = ctx.bias_dtype is not None and needed(ctx, 1)
    dx, db = pre_activation_grad(dy, saved, bias, ctx.options, bias_grad)
    gradients = [dx, None if db is None else db.to(ctx.bias_dtype)]
    if ctx.reaches_leaves:
        gradients = reach_leaves(ctx, gradients)
    return *gradients, None, None, None, None


def drops_zeros(act: str) -> bool:
    """Whether an activation's slope has a derivative that PyTorch returns as zeros; see _zero_gradients.py."""
    return ACTIVATIONS[act].piecewise_linear and act != "linear"


def output_to_save(output: Tensor, options: Sequence[Any]) -> Tensor | None:
    """The output if backward needs it. None if the slope is a constant: the output may then be overwritten."""
    act, _, _, clamp = options
    return None if act == "linear" and clamp is None else output


def pre_activation_grad(
    dy: Tensor, saved: Tensor | None, bias: Tensor | None, options: Sequence[Any], bias_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """bias_act_grad, without copying dy where the activation is the identity. db is None unless bias_grad."""
    if saved is None and options[2] == 1:
        dims = [0, *range(2, dy.dim())]
        return dy, dy.sum(dims, dtype=reference.accumulation_dtype(dy.dtype)) if bias_grad else None
    dx, db = bias_act_grad_op(dy, dy if saved is None else saved, bias, *options, bias_grad)
    return dx, db if bias_grad else None


def _fake_forward(x, bias, act, alpha, gain, clamp):
    return _like(x, x)


bias_act_op = define_op(
    f"bias_act(Tensor x, Tensor? bias, {_OPTIONS}) -> Tensor",
    reference=reference.bias_act,
    fake=_fake_forward,
    gradient=Gradient(_save_forward, _forward_formula),
    kernels=(cpu.FORWARD, triton.FORWARD),
)


# --- gradient --------------------------------------------------------------------------------------------------------


def _save_grad(ctx, inputs, output):
    dy, saved, bias, *options, _ = inputs
    ctx.options = tuple(options)
    ctx.save_for_backward(dy, saved, bias)


def _grad_formula(ctx, ddx, ddb):
    dy, saved, bias = ctx.saved_tensors
    if ddb is not None and ddb.numel():
        # db is the sum of dx, so its cotangent is added to every element of its channel.
        spread = ddb.to(dy.dtype).view(1, -1, *[1] * (dy.dim() - 2))
        ddx = spread.expand_as(dy) if ddx is None else ddx + spread
    if ddx is None:
        return (None,) * 8
    if ACTIVATIONS[ctx.options[0]].piecewise_linear:
        ddy, _ = bias_act_grad_op(ddx, saved, None, *ctx.options, False)
        return ddy, None, None, None, None, None, None, None
    ddy, dsaved = bias_act_grad_grad_op(ddx, dy, saved, bias, *ctx.options)
    return ddy, dsaved, _bias_gradient(bias, dsaved), None, None, None, None, None


def _bias_gradient(bias: Tensor | None, dsaved: Tensor) -> Tensor | None:
    # Where input and bias are saved, the formula depends on their sum only.
    if bias is None:
        return None
    dims = [0, *range(2, dsaved.dim())]
    return dsaved.to(reference.accumulation_dtype(dsaved.dtype)).sum(dims).to(bias.dtype)


def _fake_grad(dy, saved, bias, act, alpha, gain, clamp, bias_grad):
    db = dy.new_empty(dy.shape[1] if bias_grad else 0, dtype=reference.accumulation_dtype(dy.dtype))
    return _like(dy, saved), db


bias_act_grad_op = define_op(
    f"bias_act_grad(Tensor dy, Tensor saved, Tensor? bias, {_OPTIONS}, bool bias_grad) -> (Tensor dx, Tensor db)",
    reference=reference.bias_act_grad,
    fake=_fake_grad,
    gradient=Gradient(_save_grad, _grad_formula),
    kernels=(cpu.GRAD, triton.GRAD),
)


# --- second gradient of curved activations ---------------------------------------------------------------------------


def _save_grad_grad(ctx, inputs, output):
    ddx, dy, saved, bias, *options = inputs
    ctx.options = tuple(options)
    ctx.save_for_backward(ddx, dy, saved, bias)


def _grad_grad_formula(ctx, dddy, ddsaved):
    # Third order and above is not used in training: plain PyTorch, which differentiates itself.
    ddx, dy, saved, bias = ctx.saved_tensors
    first, second, third = (reference.slope(saved, bias, ctx.options, order) for order in (1, 2, 3))
    a = 0.0 if dddy is None else dddy
    b = 0.0 if ddsaved is None else ddsaved
    d_ddx = a * first + b * dy * second
    d_dy = b * ddx * second if ddsaved is not None else None
    d_saved = a * ddx * second + b * ddx * dy * third
    results = [None if d is None else d.to(dy.dtype) for d in (d_ddx, d_dy, d_saved)]
    return *results, _bias_gradient(bias, d_saved), None, None, None, None


def _fake_grad_grad(ddx, dy, saved, bias, act, alpha, gain, clamp):
    return _like(dy, saved), _like(dy, saved)


bias_act_grad_grad_op = define_op(
    f"bias_act_grad_grad(Tensor ddx, Tensor dy, Tensor saved, Tensor? bias, {_OPTIONS}) -> (Tensor ddy, Tensor dsaved)",
    reference=reference.bias_act_grad_grad,
    fake=_fake_grad_grad,
    gradient=Gradient(_save_grad_grad, _grad_grad_formula),
    kernels=(cpu.GRAD_GRAD, triton.GRAD_GRAD),
)


# --- the public function ---------------------------------------------------------------------------------------------


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    act: str = "leaky_relu",
    *,
    alpha: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """clamp(activation(x + bias) · gain) in one pass over memory, with gradients of every order.

    x: [N, C, *] floating, any strides. bias: [C] in x's dtype or float32, or None. act: one of
    `fastgan.ops.ACTIVATIONS`. alpha: slope of leaky_relu below zero, or the limit −alpha of elu, >= 0. gain: > 0.
    clamp: limit of |y|, > 0, or None. Returns y like x, dense: channels_last where x is, else contiguous. The bias
    gradient is summed in the same pass as the input gradient, in a fixed order, so that results repeat bit for bit.

    Raises TypeError or ValueError naming the argument. The exact arithmetic: fastgan/ops/bias_act/reference.py.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise bad("x", "a floating tensor", getattr(x, "dtype", type(x)), TypeError)
    if x.dim() < 2:
        raise bad("x", "[N, C, *]", list(x.shape))
    check_options(act, alpha, gain, clamp)
    if bias is not None:
        if bias.shape != x.shape[1:2]:
            raise bad("bias", f"[{x.shape[1]}], the channels of x {list(x.shape)}", list(bias.shape))
        check_bias(x, bias)
    return bias_act_op(x, bias, act, alpha, gain, clamp)


def check_options(act: str, alpha: float, gain: float, clamp: float | None) -> None:
    """Raises ValueError naming the option that is out of its range."""
    if act not in ACTIVATIONS:
        raise bad("act", f"one of {', '.join(ACTIVATIONS)}", repr(act))
    if not alpha >= 0:
        raise bad("alpha", "a slope >= 0", alpha)
    if not gain > 0:
        raise bad("gain", "a number > 0", gain)
    if clamp is not None and not clamp > 0:
        raise bad("clamp", "None or a number > 0", clamp)


def check_bias(x: Tensor, bias: Tensor) -> None:
    """Raises TypeError or ValueError unless the bias is on x's device, in x's dtype or (x not double) in float32."""
    if bias.device != x.device:
        raise bad("bias", f"on x's device {x.device}", bias.device)
    if bias.dtype != x.dtype and (bias.dtype != torch.float32 or x.dtype == torch.float64):
        wider = "" if x.dtype == torch.float64 else " or float32"
        raise bad("bias", f"x's dtype {x.dtype}{wider}", bias.dtype, TypeError)
