"""A chain of convolution blocks as one op, so that only convolutions run between the blocks, forward and backward.

In the backward pass, the input gradient of a block also applies the slope of the previous block's activation and sums
its bias gradient. Separate ops cannot do this: other operations may use the tensor between two blocks.

conv_stack → bias_act_grad, conv_dgrad_act, conv_dgrad, conv_wgrad
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops.bias_act import ACTIVATIONS
from fastgan.ops.bias_act.register import bias_act_grad_op, check_options
from fastgan.ops.conv import cpu, reference, triton
from fastgan.ops.conv.block import ACT, checked_block, conv_dgrad_act_op
from fastgan.ops.conv.reference import activation_layout
from fastgan.ops.conv.register import conv_dgrad_op, fake_conv, output_shape, wgrad

Options = tuple[list[int], list[int], list[int], int]


def _save(ctx, inputs, output):
    x, weights, biases, *rest = inputs
    ctx.conv, ctx.act = rest[:4], rest[4:]
    ctx.bias_dtypes = [bias.dtype for bias in biases]
    ctx.save_for_backward(x, *weights, *output)


def _formula(ctx, cotangents):
    x, *saved = ctx.saved_tensors
    blocks = len(saved) // 2
    weights, outputs = saved[:blocks], saved[blocks:]
    weight_needed = [needed(ctx, 1, i) for i in range(blocks)]
    bias_needed = [needed(ctx, 2, i) for i in range(len(ctx.bias_dtypes))] or [False] * blocks
    dx: Tensor | None = None
    dws: list[Tensor | None] = [None] * blocks
    dbs: list[Tensor | None] = [None] * len(ctx.bias_dtypes)
    dz: Tensor | None = None  # gradient of the pre-activation of block i; db: of its bias
    for i in reversed(range(blocks)):
        if dz is None:
            if cotangents[i] is None:
                continue
            dz, db = bias_act_grad_op(cotangents[i], outputs[i], None, *ctx.act, bias_needed[i])
        options = reference.options_of(i, *ctx.conv)
        if bias_needed[i]:
            dbs[i] = db.to(ctx.bias_dtypes[i])
        if weight_needed[i]:
            dws[i] = wgrad(dz, outputs[i - 1] if i else x, weights[i], options)
        if not (needed(ctx, 0) or any(weight_needed[:i]) or any(bias_needed[:i])):
            break
        if i == 0:
            dx = conv_dgrad_op(dz, weights[0], x.shape[2:], *options)
        elif cotangents[i - 1] is None:
            dz, db = conv_dgrad_act_op(dz, weights[i], outputs[i - 1], *options, *ctx.act, bias_needed[i - 1])
        else:  # inner outputs have cotangents of their own only in second gradients of the weights
            dy = conv_dgrad_op(dz, weights[i], outputs[i - 1].shape[2:], *options) + cotangents[i - 1]
            dz, db = bias_act_grad_op(dy, outputs[i - 1], None, *ctx.act, bias_needed[i - 1])
    return dx, dws, dbs, *(None,) * 8


def _fake(x, weights, biases, stride, padding, dilation, groups, act, alpha, gain, clamp):
    outputs = []
    for i, weight in enumerate(weights):
        x = fake_conv(x, weight, *reference.options_of(i, stride, padding, dilation, groups))
        outputs.append(x)
    return outputs


conv_stack_op = define_op(
    "conv_stack(Tensor x, Tensor[] weights, Tensor[] biases, int[] stride, int[] padding, int[] dilation, int[] groups,"
    f" {ACT}) -> Tensor[]",
    reference=reference.conv_stack,
    fake=_fake,
    gradient=Gradient(_save, _formula),
    kernels=(cpu.CONV_STACK, triton.CONV_STACK),
)


class ConvLayer(NamedTuple):
    """The weights and options of one block of a stack, as in `conv2d_bias_act`."""

    weight: Tensor
    bias: Tensor | None = None
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1


def conv2d_stack(
    x: Tensor,
    layers: Sequence[ConvLayer],
    act: str = "leaky_relu",
    *,
    alpha: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """A chain of `conv2d_bias_act` with one piecewise-linear activation: linear, relu or leaky_relu.

    x: [N, C, H, W] floating. layers: from the first to the last, all with a bias or all without. Equal to the blocks
    one by one, with less memory traffic: in the backward pass, the input gradient of a block applies the slope of the
    previous block's activation and sums its bias gradient in the same pass. Returns the output of the last block.

    Raises TypeError or ValueError naming the argument.
    """
    check_options(act, alpha, gain, clamp)
    if not ACTIVATIONS[act].piecewise_linear:
        raise bad("act", "a piecewise-linear activation: linear, relu, leaky_relu", repr(act))
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if not layers or len(biases) not in (0, len(layers)):
        raise bad(
            "layers", "at least one layer, and a bias for all or for none", [layer.bias is None for layer in layers]
        )
    shape: Sequence[int] = x.shape
    weights: list[Tensor] = []
    options: list[Options] = []
    for layer in layers:
        x, weight, own = checked_block(x, shape, *layer)
        shape = output_shape(shape, weight, *own[:3])
        weights.append(weight)
        options.append(own)
    flat = [
        [n for stride, _, _, _ in options for n in stride],
        [n for _, padding, _, _ in options for n in padding],
        [n for _, _, dilation, _ in options for n in dilation],
        [groups for _, _, _, groups in options],
    ]
    # oneDNN and cuDNN convolve faster in channels_last: two small copies at the ends of the stack replace a conversion
    # in every pass. Double, which is for checking gradients, stays as it is.
    outside = activation_layout(x, weights[0])
    if len(layers) > 1 and x.dtype != torch.float64:
        x = x.contiguous(memory_format=torch.channels_last)
    y = conv_stack_op(x, weights, biases, *flat, act, alpha, gain, clamp)[-1]
    return y.contiguous(memory_format=outside)
