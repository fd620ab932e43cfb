"""A chain of convolution blocks as one op, forward and backward.

    conv_stack           the outputs of all blocks
    conv_stack_backward  all gradients, where no gradients of them are asked for
    conv_stack_dgrad, conv_stack_tangent, conv_stack_wgrad (stack_passes.py) otherwise

A gradient penalty through a stack is one call of conv_stack and one of each pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops._zero_gradients import reach_leaves
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.bias_act.register import drops_zeros
from fastgan.ops.conv import cpu_stack, reference_stack, triton
from fastgan.ops.conv.block import ACT, check_block
from fastgan.ops.conv.reference import in_channels_last
from fastgan.ops.conv.reference_stack import lowest_block, options_of
from fastgan.ops.conv.shapes import fake_conv, fake_dgrad, fake_wgrad, output_shape
from fastgan.ops.conv.stack_passes import OPTIONS, conv_stack_dgrad_op, pullback, weight_gradients

# --- forward ---------------------------------------------------------------------------------------------------------


def _save(ctx, inputs, output):
    x, weights, biases, *rest, keep = inputs
    if not keep:
        raise RuntimeError("op conv_stack: without keep it has no gradient")
    ctx.conv, ctx.act = rest[:4], rest[4:]
    ctx.reaches_leaves, ctx.biases = drops_zeros(rest[4]), biases
    ctx.bias_dtypes = [bias.dtype for bias in biases]
    ctx.save_for_backward(x, *weights, *output)


def _formula(ctx, cotangents):
    x, *saved = ctx.saved_tensors
    blocks = len(saved) // 2
    weights, outputs = saved[:blocks], saved[blocks:]
    biases = len(ctx.bias_dtypes)
    wanted = (
        [needed(ctx, 1, i) for i in range(blocks)],
        [needed(ctx, 2, i) for i in range(biases)] or [False] * blocks,
        needed(ctx, 0),
    )
    if torch.is_grad_enabled() or any(cotangent is not None for cotangent in cotangents[:-1]):
        dx, dws, dbs = pullback(ctx, cotangents, [x, *outputs[:-1]], weights, outputs, *wanted)
    else:
        found = iter(conv_stack_backward_op(cotangents[-1], x, weights, outputs, *ctx.conv, *ctx.act, *wanted))
        dws = [next(found) if want else None for want in wanted[0]]
        dbs = [next(found) if want else None for want in wanted[1]]
        dx = next(found) if wanted[2] else None
    dbs = [None if db is None else db.to(dtype) for db, dtype in zip(dbs, ctx.bias_dtypes, strict=False)]
    if ctx.reaches_leaves:
        dx, *flat = reach_leaves(ctx, [dx, *dws, *dbs])
        dws, dbs = flat[:blocks], flat[blocks:]
    return dx, dws, dbs, *(None,) * 9


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
        shape = output_shape(shape, weight.shape, *options[:3])


conv_stack_op = define_op(
    f"conv_stack(Tensor x, Tensor[] weights, Tensor[] biases, {OPTIONS}, {ACT}, bool keep) -> Tensor[]",
    reference=reference_stack.conv_stack,
    fake=_fake,
    gradient=Gradient(_save, _formula),
    kernels=(cpu_stack.CONV_STACK, triton.CONV_STACK),
    check=_check,
)


# --- backward --------------------------------------------------------------------------------------------------------


def _save_backward(ctx, inputs, output):
    dy, x, weights, outputs, *ctx.rest = inputs
    ctx.save_for_backward(dy, x, *weights, *outputs)


def _backward_formula(ctx, cotangents):
    # Autograd records no backward pass that runs without create_graph: only a caller of the op itself comes here.
    dy, x, *saved = ctx.saved_tensors
    blocks = len(saved) // 2
    inputs = [dy, x, *saved[:blocks]]
    with torch.enable_grad():
        found = _by_passes(dy, x, saved[:blocks], saved[blocks:], *ctx.rest)
        pairs = [(y, c) for y, c in zip(found, cotangents, strict=True) if c is not None and y.requires_grad]
        wanted = [t for t in inputs if t.requires_grad]
        values, given = zip(*pairs, strict=True)
        gradients = iter(torch.autograd.grad(values, wanted, given, create_graph=True, allow_unused=True))
    d_dy, d_x, *d_weights = [next(gradients) if t.requires_grad else None for t in inputs]
    return d_dy, d_x, d_weights, None, *(None,) * 11


def _by_passes(dy, x, weights, outputs, stride, padding, dilation, groups, act, alpha, gain, clamp, *wanted):
    """conv_stack_backward by the ops of its passes."""
    weight_grad, bias_grad, input_grad = wanted
    conv = stride, padding, dilation, groups
    lowest = lowest_block(*wanted)
    found = conv_stack_dgrad_op(
        dy, weights, outputs, x.shape[2:], *conv, act, alpha, gain, clamp, lowest, any(bias_grad), input_grad
    )
    count = len(weights) - lowest
    dys, inputs = {lowest + i: found[i] for i in range(count)}, [x, *outputs[:-1]]
    dws = weight_gradients(conv, {}, weight_grad, dys, inputs, weights)
    dbs = [db for db, b in zip(found[count:], bias_grad[lowest:], strict=False) if b] if any(bias_grad) else []
    return [dw for dw in dws if dw is not None] + dbs + (found[-1:] if input_grad else [])


def _fake_backward(
    dy, x, weights, outputs, stride, padding, dilation, groups, act, alpha, gain, clamp,
    weight_grad, bias_grad, input_grad,
):  # fmt: skip
    options = [options_of(i, stride, padding, dilation, groups) for i in range(len(weights))]
    dws = [
        fake_wgrad(y, own, w.shape[2:], *o, in_channels_last(w, w))
        for own, y, w, o, want in zip([x, *outputs[:-1]], outputs, weights, options, weight_grad, strict=True)
        if want
    ]
    wide = accumulation_dtype(dy.dtype)
    dbs = [dy.new_empty(w.shape[0], dtype=wide) for w, want in zip(weights, bias_grad, strict=True) if want]
    return [*dws, *dbs, *([fake_dgrad(outputs[0], weights[0], x.shape[2:], *options[0])] if input_grad else [])]


conv_stack_backward_op = define_op(
    f"conv_stack_backward(Tensor dy, Tensor x, Tensor[] weights, Tensor[] outputs, {OPTIONS}, {ACT},"
    " bool[] weight_grad, bool[] bias_grad, bool input_grad) -> Tensor[]",
    reference=reference_stack.conv_stack_backward,
    fake=_fake_backward,
    gradient=Gradient(_save_backward, _backward_formula),
    kernels=(cpu_stack.CONV_STACK_BACKWARD, triton.CONV_STACK_BACKWARD),
)
