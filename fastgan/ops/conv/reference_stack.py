"""Specification of the ops on a chain of convolution blocks, in plain PyTorch.

    conv_stack          the outputs of all blocks, each a conv_bias_act
    conv_stack_dgrad    the input gradients, from the last block down: conv_dgrad_act for each block but the first
    conv_stack_tangent  the tangents of all outputs, from the first block up: conv_slope for each block
    conv_stack_wgrad    the conv_wgrad of several blocks
    conv_stack_backward conv_stack_dgrad and conv_stack_wgrad together

For each block there are two numbers in stride, padding, dilation and kernels, and one in groups and channels_last. The
functions each_* also run the kernels of other back-ends, which they take as arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastgan.ops.bias_act import reference as bias_act_reference
from fastgan.ops.conv.reference import (
    Pair,
    conv_bias_act,
    conv_dgrad,
    conv_dgrad_act,
    conv_slope,
    conv_wgrad,
    in_channels_last,
)


def options_of(
    i: int, stride: list[int], padding: list[int], dilation: list[int], groups: list[int]
) -> tuple[Pair, Pair, Pair, int]:
    """stride, padding, dilation and groups of block i of a stack."""
    pair = slice(2 * i, 2 * i + 2)
    return stride[pair], padding[pair], dilation[pair], groups[i]


def flat_options(each: list[tuple[Pair, Pair, Pair, int]]) -> tuple[list[int], list[int], list[int], list[int]]:
    """stride, padding, dilation and groups of a stack from those of its blocks."""
    stride, padding, dilation = ([n for own in each for n in own[k]] for k in (0, 1, 2))  # type: ignore[union-attr]
    return stride, padding, dilation, [own[3] for own in each]


def lowest_block(weight_grad: list[bool], bias_grad: list[bool], input_grad: bool) -> int:
    """The lowest block whose pre-activation gradient is needed for these gradients, of which there is one at least."""
    if input_grad:
        return 0
    return [w or b for w, b in zip(weight_grad, bias_grad, strict=True)].index(True)


def each_block(
    block: Callable[..., Tensor],
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    keep: bool,
) -> list[Tensor]:
    """conv_stack, from a conv_bias_act."""
    outputs = []
    for i, weight in enumerate(weights):
        options = options_of(i, stride, padding, dilation, groups)
        x = block(x, weight, biases[i] if biases else None, *options, act, alpha, gain, clamp)
        if keep or i == len(weights) - 1:
            outputs.append(x)
    return outputs


def each_dgrad(
    slope: Callable[..., tuple[Tensor, Tensor]],
    dgrad_act: Callable[..., tuple[Tensor, Tensor]],
    dgrad: Callable[..., Tensor],
    dy: Tensor,
    weights: list[Tensor],
    outputs: list[Tensor],
    size: Pair,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    lowest: int,
    bias_grad: bool,
    input_grad: bool,
) -> list[Tensor]:
    """conv_stack_dgrad, from a bias_act_grad, a conv_dgrad_act and a conv_dgrad."""
    options = (act, alpha, gain, clamp)
    dz, db = slope(dy, outputs[-1], None, *options, bias_grad)
    dzs, dbs = [dz], [db]
    for i in range(len(weights) - 1, lowest, -1):
        conv = options_of(i, stride, padding, dilation, groups)
        dz, db = dgrad_act(dz, weights[i], outputs[i - 1], *conv, *options, bias_grad)
        dzs.append(dz)
        dbs.append(db)
    found = [*reversed(dzs), *(reversed(dbs) if bias_grad else ())]
    if input_grad:
        found.append(dgrad(dz, weights[0], size, *options_of(0, stride, padding, dilation, groups)))
    return found


def each_tangent(
    conv_slope: Callable[..., Tensor],
    x: Tensor,
    weights: list[Tensor],
    outputs: list[Tensor],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    *act: Any,
) -> list[Tensor]:
    """conv_stack_tangent, from a conv_slope."""
    tangents = []
    for i, weight in enumerate(weights):
        x = conv_slope(x, weight, outputs[i], *options_of(i, stride, padding, dilation, groups), *act)
        tangents.append(x)
    return tangents


def each_wgrad(
    wgrad: Callable[..., Tensor],
    dys: list[Tensor],
    xs: list[Tensor],
    kernels: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    channels_last: list[bool],
) -> list[Tensor]:
    """conv_stack_wgrad, from a conv_wgrad."""
    return [
        wgrad(
            dy, xs[i], kernels[2 * i : 2 * i + 2], *options_of(i, stride, padding, dilation, groups), channels_last[i]
        )
        for i, dy in enumerate(dys)
    ]


def conv_stack(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    keep: bool,
) -> list[Tensor]:
    """x [N, C, H, W]; for each block a weight and a bias (or no biases at all).

    Returns the output of each block; without keep that of the last alone, so that inner results are freed, and the
    result has no gradient.
    """
    return each_block(
        conv_bias_act, x, weights, biases, stride, padding, dilation, groups, act, alpha, gain, clamp, keep
    )  # fmt: skip


def conv_stack_dgrad(
    dy: Tensor,
    weights: list[Tensor],
    outputs: list[Tensor],
    size: Pair,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    lowest: int,
    bias_grad: bool,
    input_grad: bool,
) -> list[Tensor]:
    """dy like the last of outputs, size (H, W) of the stack's input. The pass goes down to block `lowest`.

    Returns the pre-activation gradients of the blocks from `lowest` to the last; with bias_grad then their bias
    gradients; with input_grad, for which lowest is 0, then the gradient of the input.
    """
    return each_dgrad(
        bias_act_reference.bias_act_grad, conv_dgrad_act, conv_dgrad, dy, weights, outputs, size,
        stride, padding, dilation, groups, act, alpha, gain, clamp, lowest, bias_grad, input_grad,
    )  # fmt: skip


def conv_stack_tangent(
    x: Tensor,
    weights: list[Tensor],
    outputs: list[Tensor],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> list[Tensor]:
    """x like the stack's input: its tangent. Returns the tangents of the blocks' outputs."""
    return each_tangent(
        conv_slope, x, weights, outputs, stride, padding, dilation, groups, act, alpha, gain, clamp
    )  # fmt: skip


def conv_stack_wgrad(
    dys: list[Tensor],
    xs: list[Tensor],
    kernels: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    channels_last: list[bool],
) -> list[Tensor]:
    """For each block the gradient of its convolution's result and its input; two numbers in kernels, stride, padding
    and dilation, one in groups and channels_last. Returns each block's weight gradient."""
    return each_wgrad(conv_wgrad, dys, xs, kernels, stride, padding, dilation, groups, channels_last)


def conv_stack_backward(
    dy: Tensor,
    x: Tensor,
    weights: list[Tensor],
    outputs: list[Tensor],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    weight_grad: list[bool],
    bias_grad: list[bool],
    input_grad: bool,
) -> list[Tensor]:
    """The gradients of a conv_stack with input x for the gradient dy of its last output.

    Returns the weight gradients of the blocks with weight_grad, then the bias gradients (in the accumulation dtype) of
    those with bias_grad, then with input_grad that of x. One at least is asked for.
    """
    return both_passes(
        conv_stack_dgrad, conv_stack_wgrad, dy, x, weights, outputs, stride, padding, dilation, groups,
        act, alpha, gain, clamp, weight_grad, bias_grad, input_grad,
    )  # fmt: skip


def both_passes(
    dgrad: Callable[..., list[Tensor]],
    wgrad: Callable[..., list[Tensor]],
    dy: Tensor,
    x: Tensor,
    weights: list[Tensor],
    outputs: list[Tensor],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    weight_grad: list[bool],
    bias_grad: list[bool],
    input_grad: bool,
) -> list[Tensor]:
    """conv_stack_backward, from a conv_stack_dgrad and a conv_stack_wgrad."""
    conv = stride, padding, dilation, groups
    lowest = lowest_block(weight_grad, bias_grad, input_grad)
    size = list(x.shape[2:])
    found = dgrad(dy, weights, outputs, size, *conv, act, alpha, gain, clamp, lowest, any(bias_grad), input_grad)
    count = len(weights) - lowest
    chosen = [i for i, want in enumerate(weight_grad) if want]
    inputs, each = [x, *outputs[:-1]], [options_of(i, *conv) for i in chosen]
    dws = wgrad(
        [found[i - lowest] for i in chosen],
        [inputs[i] for i in chosen],
        [n for i in chosen for n in weights[i].shape[2:]],
        *flat_options(each),
        [in_channels_last(weights[i], weights[i]) for i in chosen],
    ) if chosen else []  # fmt: skip
    dbs = [found[count + i - lowest] for i, want in enumerate(bias_grad) if want]
    return [*dws, *dbs, *(found[-1:] if input_grad else [])]
