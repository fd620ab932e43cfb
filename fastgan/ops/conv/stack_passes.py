"""The passes through a chain of convolution blocks, one op each: input gradients, tangents, weight gradients.

In the input-gradient pass, the input gradient of a block also applies the slope of the previous block's activation and
sums its bias gradient; in the tangent pass, the convolution of a block applies the slope of its own. Separate ops
cannot do this: other operations may use the tensor in between.

conv_stack_dgrad → conv_stack_tangent, conv_stack_wgrad
conv_stack_tangent → conv_stack_dgrad, conv_stack_wgrad
conv_stack_wgrad → conv, conv_dgrad

Where inner results have cotangents of their own (second gradients of the weights, third orders) the formulas use the
ops of single blocks instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops._memory_format import empty, memory_format
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.bias_act.register import bias_act_grad_op
from fastgan.ops.conv import cpu_stack, reference_stack, triton
from fastgan.ops.conv.block import ACT
from fastgan.ops.conv.reference import in_channels_last
from fastgan.ops.conv.reference_stack import flat_options, lowest_block, options_of
from fastgan.ops.conv.register import (
    conv_dgrad_op,
    conv_op,
    wgrad,
)
from fastgan.ops.conv.shapes import fake_dgrad, fake_wgrad

OPTIONS = "int[] stride, int[] padding, int[] dilation, int[] groups"
Tensors = Sequence[Tensor]
Gradients = list[Tensor | None]


# --- the gradients of a chain -----------------------------------------------------------------------------------------


def pullback(
    ctx: Any,
    cotangents: Gradients,
    inputs: Tensors,
    weights: Tensors,
    outputs: Tensors,
    weight_needed: list[bool],
    bias_needed: list[bool],
    x_needed: bool,
) -> tuple[Tensor | None, Gradients, Gradients]:
    """The gradients of input, weights and biases of a chain whose blocks have these inputs; outputs give the slopes."""
    blocks = len(weights)
    dws: Gradients = [None] * blocks
    dbs: Gradients = [None] * blocks
    if not (x_needed or any(weight_needed) or any(bias_needed)):
        return None, dws, dbs
    if any(cotangent is not None for cotangent in cotangents[:-1]):
        return _pullback_by_block(ctx, cotangents, inputs, weights, outputs, weight_needed, bias_needed, x_needed)
    lowest, with_bias = lowest_block(weight_needed, bias_needed, x_needed), any(bias_needed)
    found = conv_stack_dgrad_op(
        cotangents[-1], weights, outputs, inputs[0].shape[2:], *ctx.conv, *ctx.act, lowest, with_bias, x_needed
    )
    count = blocks - lowest
    if with_bias:
        dbs[lowest:] = [db if b else None for db, b in zip(found[count:], bias_needed[lowest:], strict=False)]
    dys = {lowest + i: found[i] for i in range(count)}
    return (
        found[-1] if x_needed else None,
        weight_gradients(ctx.conv, ctx.memo, weight_needed, dys, inputs, weights),
        dbs,
    )


def weight_gradients(
    conv: Any,
    memo: dict[Any, Any],
    wanted: list[bool],
    dys: dict[int, Tensor],
    inputs: Tensors | dict[int, Tensor],
    weights: Tensors,
) -> Gradients:
    """The weight gradients of the wanted blocks, from the gradient dys[i] of a convolution's result and its input."""
    chosen = tuple(i for i, want in enumerate(wanted) if want and i in dys)
    found: Gradients = [None] * len(wanted)
    if not chosen:
        return found
    options = memo.get(chosen)
    if options is None:
        each = [options_of(i, *conv) for i in chosen]
        options = memo[chosen] = (
            [n for i in chosen for n in weights[i].shape[2:]],
            *flat_options(each),
            [in_channels_last(weights[i], weights[i]) for i in chosen],
        )
    dws = conv_stack_wgrad_op([dys[i] for i in chosen], [inputs[i] for i in chosen], *options)
    for i, dw in zip(chosen, dws, strict=True):
        found[i] = dw
    return found


def _pullback_by_block(ctx, cotangents, inputs, weights, outputs, weight_needed, bias_needed, x_needed):
    """`pullback` for cotangents of inner blocks: of second gradients of the weights, and of third orders."""
    blocks = len(weights)
    dx, dz = None, None  # dz: gradient of the pre-activation of block i
    dws: Gradients = [None] * blocks
    dbs: Gradients = [None] * blocks
    for i in reversed(range(blocks)):
        options = options_of(i, *ctx.conv)
        dy = cotangents[i]
        if dz is not None:
            below = conv_dgrad_op(dz, weights[i + 1], outputs[i].shape[2:], *options_of(i + 1, *ctx.conv))
            dy = below if dy is None else dy + below
        if dy is None:
            continue
        dz, db = bias_act_grad_op(dy, outputs[i], None, *ctx.act, bias_needed[i])
        if bias_needed[i]:
            dbs[i] = db
        if weight_needed[i]:
            dws[i] = wgrad(dz, inputs[i], weights[i], options)
    if x_needed and dz is not None:
        dx = conv_dgrad_op(dz, weights[0], inputs[0].shape[2:], *options_of(0, *ctx.conv))
    return dx, dws, dbs


# --- input gradients --------------------------------------------------------------------------------------------------


def _save_dgrad(ctx, inputs, output):
    _, weights, outputs, _, *rest = inputs
    ctx.conv, ctx.act = rest[:4], rest[4:8]
    ctx.lowest, ctx.bias_grad, ctx.input_grad = rest[8:]
    ctx.save_for_backward(*weights, *outputs, *output[: len(weights) - ctx.lowest])


def _dgrad_formula(ctx, cotangents):
    saved, lowest = ctx.saved_tensors, ctx.lowest
    blocks = (len(saved) + lowest) // 3
    weights, outputs = saved[:blocks], saved[blocks : 2 * blocks]
    dzs = {lowest + i: dz for i, dz in enumerate(saved[2 * blocks :])}
    dy_needed, weight_needed = needed(ctx, 0), [needed(ctx, 1, i) for i in range(blocks)]
    ddx = cotangents[-1] if ctx.input_grad else None
    tangents: dict[int, Tensor]  # of the inputs of the blocks, and of the output
    if ddx is not None and all(cotangent is None for cotangent in cotangents[:-1]):
        run = blocks if dy_needed else blocks - 1  # only dy depends on the tangent of the output
        cut = [values[: 2 * run] for values in ctx.conv[:3]]
        found = (
            conv_stack_tangent_op(ddx, weights[:run], outputs[:run], *cut, ctx.conv[3][:run], *ctx.act) if run else []
        )
        tangents = dict(enumerate([ddx, *found]))
    else:
        tangents = _tangents_by_block(ctx, ddx, cotangents, weights, outputs)
    inner = {i: dz for i, dz in dzs.items() if i in tangents}
    dws = weight_gradients(ctx.conv, ctx.memo, weight_needed, inner, tangents, weights)
    return tangents.get(blocks) if dy_needed else None, dws, None, None, *(None,) * 11


def _tangents_by_block(ctx, ddx, cotangents, weights, outputs):
    """The tangents of the inputs of the blocks and of the output, where inner results have cotangents."""
    blocks, lowest = len(weights), ctx.lowest
    count = blocks - lowest
    tangents = {} if ddx is None else {0: ddx}
    for i in range(lowest, blocks):
        total = cotangents[i - lowest]
        ddb = cotangents[count + i - lowest] if ctx.bias_grad else None
        if ddb is not None:
            # db is the sum of dz, so its cotangent is added to every element of its channel.
            spread = ddb.to(outputs[i].dtype).view(1, -1, 1, 1).expand_as(outputs[i])
            total = spread if total is None else total + spread
        if i in tangents:
            below = conv_op(tangents[i], weights[i], *options_of(i, *ctx.conv))
            total = below if total is None else total + below
        if total is not None:
            tangents[i + 1], _ = bias_act_grad_op(total, outputs[i], None, *ctx.act, False)
    return tangents


def _fake_dgrad(
    dy,
    weights,
    outputs,
    size,
    stride,
    padding,
    dilation,
    groups,
    act,
    alpha,
    gain,
    clamp,
    lowest,
    bias_grad,
    input_grad,
):
    dz = empty(dy, memory_format(outputs[-1]))
    dzs = [dz]
    for i in range(len(weights) - 1, lowest, -1):
        dz = fake_dgrad(dz, weights[i], outputs[i - 1].shape[2:], *options_of(i, stride, padding, dilation, groups))
        dzs.append(dz)
    dzs.reverse()
    wide = accumulation_dtype(dy.dtype)
    dbs = [dy.new_empty(dz.shape[1], dtype=wide) for dz in dzs] if bias_grad else []
    dx = [fake_dgrad(dz, weights[0], size, *options_of(0, stride, padding, dilation, groups))] if input_grad else []
    return [*dzs, *dbs, *dx]


conv_stack_dgrad_op = define_op(
    f"conv_stack_dgrad(Tensor dy, Tensor[] weights, Tensor[] outputs, SymInt[2] size, {OPTIONS}, {ACT}, int lowest,"
    " bool bias_grad, bool input_grad) -> Tensor[]",
    reference=reference_stack.conv_stack_dgrad,
    fake=_fake_dgrad,
    gradient=Gradient(_save_dgrad, _dgrad_formula),
    kernels=(cpu_stack.CONV_STACK_DGRAD, triton.CONV_STACK_DGRAD),
)


# --- tangent ---------------------------------------------------------------------------------------------------------


def _save_tangent(ctx, inputs, output):
    x, weights, outputs, *rest = inputs
    ctx.conv, ctx.act = rest[:4], rest[4:]
    ctx.save_for_backward(x, *weights, *outputs, *output[:-1])


def _tangent_formula(ctx, cotangents):
    x, *saved = ctx.saved_tensors
    blocks = (len(saved) + 1) // 3
    weights, outputs, tangents = saved[:blocks], saved[blocks : 2 * blocks], saved[2 * blocks :]
    weight_needed = [needed(ctx, 1, i) for i in range(blocks)]
    no_biases = [False] * blocks
    dx, dws, _ = pullback(ctx, cotangents, [x, *tangents], weights, outputs, weight_needed, no_biases, needed(ctx, 0))
    return dx, dws, None, *(None,) * 8


def _fake_tangent(x, weights, outputs, stride, padding, dilation, groups, act, alpha, gain, clamp):
    return [empty(x.new_empty(output.shape), memory_format(output)) for output in outputs]


conv_stack_tangent_op = define_op(
    f"conv_stack_tangent(Tensor x, Tensor[] weights, Tensor[] outputs, {OPTIONS}, {ACT}) -> Tensor[]",
    reference=reference_stack.conv_stack_tangent,
    fake=_fake_tangent,
    gradient=Gradient(_save_tangent, _tangent_formula),
    kernels=(cpu_stack.CONV_STACK_TANGENT, triton.CONV_STACK_TANGENT),
)


# --- weight gradients ------------------------------------------------------------------------------------------------


def _save_wgrad(ctx, inputs, output):
    dys, xs, _, *rest = inputs
    ctx.conv = rest[:4]
    ctx.save_for_backward(*dys, *xs)


def _wgrad_formula(ctx, ddws):
    saved = ctx.saved_tensors
    blocks = len(saved) // 2
    dys, xs = saved[:blocks], saved[blocks:]
    ddys, dxs = [None] * blocks, [None] * blocks
    for i, ddw in enumerate(ddws):
        options = options_of(i, *ctx.conv)
        if ddw is not None and needed(ctx, 0, i):
            ddys[i] = conv_op(xs[i], ddw, *options)
        if ddw is not None and needed(ctx, 1, i):
            dxs[i] = conv_dgrad_op(dys[i], ddw, xs[i].shape[2:], *options)
    return ddys, dxs, *(None,) * 6


def _fake_wgrad(dys, xs, kernels, stride, padding, dilation, groups, channels_last):
    return [
        fake_wgrad(dy, x, kernels[2 * i : 2 * i + 2], *options_of(i, stride, padding, dilation, groups), last)
        for i, (dy, x, last) in enumerate(zip(dys, xs, channels_last, strict=True))
    ]


conv_stack_wgrad_op = define_op(
    f"conv_stack_wgrad(Tensor[] dys, Tensor[] xs, SymInt[] kernels, {OPTIONS}, bool[] channels_last) -> Tensor[]",
    reference=reference_stack.conv_stack_wgrad,
    fake=_fake_wgrad,
    gradient=Gradient(_save_wgrad, _wgrad_formula),
    kernels=(cpu_stack.CONV_STACK_WGRAD, triton.CONV_STACK_WGRAD),
)
