"""A convolution and the bias_act after it as one op.

conv_bias_act → bias_act_grad, conv_dgrad, conv_wgrad (conv_backward)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops._zero_gradients import reach_leaves
from fastgan.ops.bias_act import ACTIVATIONS, bias_act
from fastgan.ops.bias_act.register import (
    check_bias,
    check_options,
    drops_zeros,
    output_to_save,
    pre_activation_grad,
)
from fastgan.ops.conv import cpu, reference, triton
from fastgan.ops.conv.register import (
    OPTIONS,
    cast,
    check_input,
    check_operands,
    conv2d,
    conv_gradients,
    pair,
)
from fastgan.ops.conv.shapes import fake_conv

ACT = "str act, float alpha, float gain, float? clamp"


# --- y = act(x ∗ w + b) ----------------------------------------------------------------------------------------------


def _save_block(ctx, inputs, output):
    x, weight, bias, *rest = inputs
    ctx.conv, ctx.act = rest[:4], rest[4:]
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.reaches_leaves, ctx.biases = drops_zeros(rest[4]), [] if bias is None else [bias]
    ctx.save_for_backward(x, weight, output_to_save(output, ctx.act))


def _block_formula(ctx, dy):
    x, weight, y = ctx.saved_tensors
    bias_grad = ctx.bias_dtype is not None and needed(ctx, 2)
    dz, db = pre_activation_grad(dy, y, None, ctx.act, bias_grad)
    dx, dw = conv_gradients(dz, x, weight, ctx.conv, needed(ctx, 0), needed(ctx, 1))
    gradients = [dx, dw, None if db is None else db.to(ctx.bias_dtype)]
    if ctx.reaches_leaves:
        gradients = reach_leaves(ctx, gradients)
    return *gradients, *(None,) * 8


def _fake_block(x, weight, bias, stride, padding, dilation, groups, act, alpha, gain, clamp):
    return fake_conv(x, weight, stride, padding, dilation, groups)


def check_block(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> None:
    """Raises TypeError or ValueError. shape: of the block's input, which has x's dtype and device."""
    check_operands(x, weight, groups)
    check_input(shape, weight, padding, dilation, groups)
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise bad("bias", f"[{weight.shape[0]}], the rows of weight {list(weight.shape)}", list(bias.shape))
        check_bias(x, bias)


def _check(x, weight, bias, stride, padding, dilation, groups, act, alpha, gain, clamp):
    check_block(x, x.shape, weight, bias, stride, padding, dilation, groups)


conv_bias_act_op = define_op(
    f"conv_bias_act(Tensor x, Tensor weight, Tensor? bias, {OPTIONS}, {ACT}) -> Tensor",
    reference=reference.conv_bias_act,
    fake=_fake_block,
    gradient=Gradient(_save_block, _block_formula),
    kernels=(cpu.CONV_BIAS_ACT, triton.CONV_BIAS_ACT),
    check=_check,
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
    x, weight = cast(x, weight)
    options = pair(stride, "stride", 1), pair(padding, "padding", 0), pair(dilation, "dilation", 1), groups
    return conv_bias_act_op(x, weight, bias, *options, act, alpha, gain, clamp)
