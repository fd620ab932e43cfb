"""A chain of convolution blocks as one op, and one op for each of its passes.

    conv_stack          forward: the outputs of all blocks
    conv_stack_dgrad    backward: the pre-activation gradients of the blocks, and the gradient of the input
    conv_stack_tangent  the forward pass of the linearized chain, the adjoint of conv_stack_dgrad
    conv_stack_wgrad    the weight gradients of several blocks

A gradient penalty through a stack is one call of each. In the input-gradient pass, the input gradient of a block also
applies the slope of the previous block's activation and sums its bias gradient; in the tangent pass, the convolution of
a block applies the slope of its own. Separate ops cannot do this: other operations may use the tensor in between.

conv_stack → conv_stack_dgrad, conv_stack_wgrad
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
from fastgan.ops.conv.block import ACT, check_block
from fastgan.ops.conv.reference import in_channels_last
from fastgan.ops.conv.reference_stack import options_of
from fastgan.ops.conv.register import (
    conv_dgrad_op,
    conv_op,
    wgrad,
)
from fastgan.ops.conv.shapes import fake_conv, fake_dgrad, fake_wgrad, output_shape

OPTIONS = "int[] stride, int[] padding, int[] dilation, int[] groups"
Tensors = Sequence[Tensor]
Gradients = list[Tensor | None]


# --- forward ---------------------------------------------------------------------------------------------------------


def _save(ctx, inputs, output):
    x, weights, biases, *rest, keep = inputs
    if not keep:
        raise RuntimeError("op conv_stack: without keep it has no gradient")
    ctx.conv, ctx.act = rest[:4], rest[4:]
    ctx.bias_dtypes = [bias.dtype for bias in biases]
    ctx.save_for_backward(x, *weights, *output)


def _formula(ctx, cotangents):
    x, *saved = ctx.saved_tensors
    blocks = len(saved) // 2
    weights, outputs = saved[:blocks], saved[blocks:]
    bias_needed = [needed(ctx, 2, i) for i in range(len(ctx.bias_dtypes))] or [False] * blocks
    dx, dws, dbs = _pullback(ctx, cotangents, [x, *outputs[:-1]], weights, outputs, bias_needed)
    dbs = [None if db is None else db.to(dtype) for db, dtype in zip(dbs, ctx.bias_dtypes, strict=False)]
    return dx, dws, dbs, *(None,) * 9


def _pullback(
    ctx: Any, cotangents: Gradients, inputs: Tensors, weights: Tensors, outputs: Tensors, bias_needed: list[bool]
) -> tuple[Tensor | None, Gradients, Gradients]:
    """The gradients of input, weights and biases of a chain whose blocks have these inputs; outputs give the slopes."""
    blocks = len(weights)
    x_needed, weight_needed = needed(ctx, 0), [needed(ctx, 1, i) for i in range(blocks)]
    own = [x_needed, *(w or b for w, b in zip(weight_needed, bias_needed, strict=True))]
    dws, dbs = [None] * blocks, [None] * blocks
    if not any(own):
        return None, dws, dbs
    if any(cotangent is not None for cotangent in cotangents[:-1]):
        return _pullback_by_block(ctx, cotangents, inputs, weights, outputs, x_needed, weight_needed, bias_needed)
    lowest = max(0, own.index(True) - 1)
    found = conv_stack_dgrad_op(
        cotangents[-1], weights, outputs, inputs[0].shape[2:], *ctx.conv, *ctx.act, lowest, any(bias_needed), x_needed
    )
    count = blocks - lowest
    if any(bias_needed):
        dbs[lowest:] = [db if b else None for db, b in zip(found[count:], bias_needed[lowest:], strict=False)]
    dws = _weight_gradients(ctx, weight_needed, {lowest + i: found[i] for i in range(count)}, inputs, weights)
    return found[-1] if x_needed else None, dws, dbs


def _weight_gradients(
    ctx: Any, wanted: list[bool], dys: dict[int, Tensor], inputs: Tensors | dict[int, Tensor], weights: Tensors
) -> Gradients:
    """The weight gradients of the wanted blocks, from the gradient dys[i] of a convolution's result and its input."""
    chosen = tuple(i for i, want in enumerate(wanted) if want and i in dys)
    found: Gradients = [None] * len(wanted)
    if not chosen:
        return found
    options = ctx.memo.get(chosen)
    if options is None:
        each = [options_of(i, *ctx.conv) for i in chosen]
        options = ctx.memo[chosen] = (
            [n for i in chosen for n in weights[i].shape[2:]],
            *([n for own in each for n in own[k]] for k in range(3)),
            [own[3] for own in each],
            [in_channels_last(weights[i], weights[i]) for i in chosen],
        )
    dws = conv_stack_wgrad_op([dys[i] for i in chosen], [inputs[i] for i in chosen], *options)
    for i, dw in zip(chosen, dws, strict=True):
        found[i] = dw
    return found


def _pullback_by_block(ctx, cotangents, inputs, weights, outputs, x_needed, weight_needed, bias_needed):
    """`_pullback` for cotangents of inner blocks: of second gradients of the weights, and of third orders."""
    blocks = len(weights)
    dx, dz = None, None  # dz: gradient of the pre-activation of block i
    dws, dbs = [None] * blocks, [None] * blocks
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


def _fake(x, weights, biases, stride, padding, dilation, groups, act, alpha, gain, clamp, keep):
    outputs = []
    for i, weight in enumerate(weights):
        x = fake_conv(x, weight, *options_of(i, stride, padding, dilation, groups))
        outputs.append(x)
    return outputs if keep else outputs[-1:]


def _check(x, weights, biases, stride, padding, dilation, groups, act, alpha, gain, clamp, keep):
    shape: Sequence[int] = x.shape
    for i, weight in enumerate(weights):
        options = options_of(i, stride, padding, dilation, groups)
        check_block(x, shape, weight, biases[i] if biases else None, *options)
        shape = output_shape(shape, weight, *options[:3])


conv_stack_op = define_op(
    f"conv_stack(Tensor x, Tensor[] weights, Tensor[] biases, {OPTIONS}, {ACT}, bool keep) -> Tensor[]",
    reference=reference_stack.conv_stack,
    fake=_fake,
    gradient=Gradient(_save, _formula),
    kernels=(cpu_stack.CONV_STACK, triton.CONV_STACK),
    check=_check,
)


# --- backward --------------------------------------------------------------------------------------------------------


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
    dws = _weight_gradients(ctx, weight_needed, inner, tangents, weights)
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
    dx, dws, _ = _pullback(ctx, cotangents, [x, *tangents], weights, outputs, [False] * blocks)
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
