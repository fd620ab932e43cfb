"""A convolution and the bias_act after it as one op, forward and backward.

conv_bias_act   → bias_act_grad, conv_dgrad, conv_wgrad
conv_dgrad_act  → bias_act_grad, conv, conv_wgrad
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops.bias_act import ACTIVATIONS, bias_act
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.bias_act.register import (
    bias_act_grad_op,
    check_bias,
    check_options,
    output_to_save,
    pre_activation_grad,
)
from fastgan.ops.conv import cpu, reference, triton
from fastgan.ops.conv.register import (
    OPTIONS,
    cast,
    checked,
    checked_input,
    conv2d,
    conv_dgrad_op,
    conv_op,
    fake_conv,
    fake_dgrad,
    wgrad,
)

ACT = "str act, float alpha, float gain, float? clamp"


# --- y = act(x ∗ w + b) ----------------------------------------------------------------------------------------------


def _save_block(ctx, inputs, output):
    x, weight, bias, *rest = inputs
    ctx.conv, ctx.act = rest[:4], rest[4:]
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, output_to_save(output, ctx.act))


def _block_formula(ctx, dy):
    x, weight, y = ctx.saved_tensors
    bias_grad = ctx.bias_dtype is not None and needed(ctx, 2)
    dz, db = pre_activation_grad(dy, y, None, ctx.act, bias_grad)
    dx = conv_dgrad_op(dz, weight, x.shape[2:], *ctx.conv) if needed(ctx, 0) else None
    dw = wgrad(dz, x, weight, ctx.conv) if needed(ctx, 1) else None
    return dx, dw, None if db is None else db.to(ctx.bias_dtype), *(None,) * 8


def _fake_block(x, weight, bias, stride, padding, dilation, groups, act, alpha, gain, clamp):
    return fake_conv(x, weight, stride, padding, dilation, groups)


conv_bias_act_op = define_op(
    f"conv_bias_act(Tensor x, Tensor weight, Tensor? bias, {OPTIONS}, {ACT}) -> Tensor",
    reference=reference.conv_bias_act,
    fake=_fake_block,
    gradient=Gradient(_save_block, _block_formula),
    kernels=(cpu.CONV_BIAS_ACT, triton.CONV_BIAS_ACT),
)


# --- from the pre-activation of a block to that of the block below ----------------------------------------------------


def _save_dgrad_act(ctx, inputs, output):
    dy, weight, saved, *rest = inputs
    ctx.conv, ctx.act = rest[:4], rest[4:8]
    ctx.save_for_backward(dy, weight, saved)


def _dgrad_act_formula(ctx, ddx, ddb):
    dy, weight, saved = ctx.saved_tensors
    if ddb is not None and ddb.numel():
        # db is the sum of dx, so its cotangent is added to every element of its channel.
        spread = ddb.to(saved.dtype).view(1, -1, 1, 1)
        ddx = spread.expand_as(saved) if ddx is None else ddx + spread
    if ddx is None:
        return (None,) * 12
    tangent, _ = bias_act_grad_op(ddx, saved, None, *ctx.act, False)
    ddy = conv_op(tangent, weight, *ctx.conv) if needed(ctx, 0) else None
    dw = wgrad(dy, tangent, weight, ctx.conv) if needed(ctx, 1) else None
    return ddy, dw, *(None,) * 10


def _fake_dgrad_act(dy, weight, saved, stride, padding, dilation, groups, act, alpha, gain, clamp, bias_grad):
    db = dy.new_empty(saved.shape[1] if bias_grad else 0, dtype=accumulation_dtype(dy.dtype))
    return fake_dgrad(dy, weight, saved.shape[2:], stride, padding, dilation, groups), db


conv_dgrad_act_op = define_op(
    f"conv_dgrad_act(Tensor dy, Tensor weight, Tensor saved, {OPTIONS}, {ACT}, bool bias_grad)"
    " -> (Tensor dx, Tensor db)",
    reference=reference.conv_dgrad_act,
    fake=_fake_dgrad_act,
    gradient=Gradient(_save_dgrad_act, _dgrad_act_formula),
    kernels=(cpu.CONV_DGRAD_ACT, triton.CONV_DGRAD_ACT),
)


# --- the public function ---------------------------------------------------------------------------------------------


def conv2d_bias_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    act: str = "leaky_relu",
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    alpha: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """clamp(activation(x ∗ weight + bias) · gain) as one op, with gradients of every order.

    x: [N, C, H, W] floating. weight: [K, C/groups, R, S] in x's dtype. bias: [K] in x's dtype or float32, or None. The
    other arguments as in `conv2d` and `bias_act`. Returns [N, K, P, Q], channels_last where x or weight is. Under
    autocast x and weight are cast to its dtype, and the bias is added in float32.

    Raises TypeError or ValueError naming the argument. The exact arithmetic: fastgan/ops/conv/reference.py.
    """
    check_options(act, alpha, gain, clamp)
    if ACTIVATIONS[act].saves == "input":
        # The derivative needs the pre-activation, which the fused op does not store.
        z = conv2d(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
        return bias_act(z, bias, act, alpha=alpha, gain=gain, clamp=clamp)
    x, weight, conv = checked_block(x, x.shape, weight, bias, stride, padding, dilation, groups)
    return conv_bias_act_op(x, weight, bias, *conv, act, alpha, gain, clamp)


def checked_block(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor, tuple[list[int], list[int], list[int], int]]:
    """x and weight cast for autocast, and (stride, padding, dilation, groups). Raises TypeError or ValueError.

    shape: of the block's input, which has x's dtype and device.
    """
    x, weight = cast(x, weight)
    stride, padding, dilation = checked(x, weight, stride, padding, dilation, groups)
    checked_input(shape, weight, padding, dilation, groups)
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise bad("bias", f"[{weight.shape[0]}], the rows of weight {list(weight.shape)}", list(bias.shape))
        check_bias(x, bias)
    return x, weight, (stride, padding, dilation, groups)
