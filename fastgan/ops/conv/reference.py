"""Specification of the convolution family, in plain PyTorch.

Three ops, each linear in both of its tensors and each the derivative of the others, and three that contain `bias_act`,
so that it needs no pass over memory of its own:

    conv        y  [N, K, P, Q] = x [N, C, H, W] ∗ w [K, C/groups, R, S]
    conv_dgrad  dx [N, C, H, W]: the gradient of conv with respect to x, for the cotangent dy; as a forward pass it is
                the transposed convolution
    conv_wgrad  dw [K, C/groups, R, S]: the gradient of conv with respect to w

    conv_bias_act   bias_act(conv(x, w), b): a block of a network; its steps are rounded as in bias_act, but between the
                    two the result may stay in the accumulation dtype
    conv_stack      a chain of conv_bias_act; it returns the outputs of all blocks
    conv_dgrad_act  bias_act_grad(conv_dgrad(dy, w), saved): from the pre-activation gradient of a block to that of the
                    block before, whose output is `saved`

PyTorch's convolutions (oneDNN, cuDNN) do the arithmetic, in the tensors' dtype with their own accumulation.
Results are dense: activations in channels_last when either operand is, weights as `channels_last` says.

Since the family is closed, a gradient penalty computes only the gradients that it needs. PyTorch's own double backward
of a convolution always computes all its outputs, and computes the weight gradient as a convolution with a kernel as
large as the image, much slower than conv_wgrad.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format, weight_format
from fastgan.ops.bias_act import reference as bias_act_reference

Pair = list[int]


def activation_layout(x: Tensor, weight: Tensor) -> torch.memory_format:
    """channels_last if either operand is: oneDNN and cuDNN then compute in it."""
    both = (memory_format(x), weight_format(weight))
    return torch.channels_last if torch.channels_last in both else torch.contiguous_format


def weight_layout(channels_last: bool) -> torch.memory_format:
    """The layout of a weight gradient."""
    return torch.channels_last if channels_last else torch.contiguous_format


def conv(x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Tensor:
    """x [N, C, H, W], weight [K, C/groups, R, S] → [N, K, P, Q]."""
    y = torch.ops.aten.convolution(x, weight, None, stride, padding, dilation, False, [0, 0], groups)
    return dense(y, activation_layout(x, weight))


def conv_dgrad(
    dy: Tensor, weight: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """dy [N, K, P, Q], weight [K, C/groups, R, S], size (H, W) → [N, C, H, W]."""
    kernel = weight.shape[2:]
    extra = [
        size[i] - ((dy.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1)
        for i in range(2)
    ]
    dx = torch.ops.aten.convolution(dy, weight, None, stride, padding, dilation, True, extra, groups)
    return dense(dx, activation_layout(dy, weight))


def conv_wgrad(
    dy: Tensor,
    x: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    channels_last: bool,
) -> Tensor:
    """dy [N, K, P, Q], x [N, C, H, W], kernel (R, S) → [K, C/groups, R, S]."""
    shape = torch.Size([dy.shape[1], x.shape[1] // groups, *kernel])
    if dy.device.type == "cpu" and not channels_last and shape.numel() > x.numel():
        # Given channels_last images, oneDNN computes the weight gradient in channels_last. Converting the images, which
        # are smaller here, is cheaper than converting the gradient.
        dy, x = dy.contiguous(), x.contiguous()
    # Only its shape and layout are used. An expanded element would do, but oneDNN would make it dense, in the layout of
    # the images: a copy as large as the weight.
    like = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=activation_layout(dy, x))
    mask = [False, True, False]
    _, dw, _ = torch.ops.aten.convolution_backward(
        dy, x, like, None, stride, padding, dilation, False, [0, 0], groups, mask
    )
    return dense(dw, weight_layout(channels_last))


def conv_bias_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """x [N, C, H, W], weight [K, C/groups, R, S], bias [K] or None → [N, K, P, Q]. For activations that save y."""
    z = conv(x, weight, stride, padding, dilation, groups)
    return bias_act_reference.bias_act(z, bias, act, alpha, gain, clamp)


def options_of(
    i: int, stride: list[int], padding: list[int], dilation: list[int], groups: list[int]
) -> tuple[Pair, Pair, Pair, int]:
    """stride, padding, dilation and groups of block i of a stack."""
    pair = slice(2 * i, 2 * i + 2)
    return stride[pair], padding[pair], dilation[pair], groups[i]


def each_block(
    block: Callable[..., Tensor],
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: list[int],
    *act: Any,
) -> list[Tensor]:
    """The outputs of a stack, each from a call of `block` with the arguments of conv_bias_act."""
    outputs = []
    for i, weight in enumerate(weights):
        options = options_of(i, stride, padding, dilation, groups)
        x = block(x, weight, biases[i] if biases else None, *options, *act)
        outputs.append(x)
    return outputs


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
) -> list[Tensor]:
    """x [N, C, H, W]; for each block a weight, a bias (or no biases at all), two numbers in stride, padding and
    dilation, and one in groups. Returns the output of each block."""
    return each_block(
        conv_bias_act, x, weights, biases, stride, padding, dilation, groups, act, alpha, gain, clamp
    )  # fmt: skip


def conv_dgrad_act(
    dy: Tensor,
    weight: Tensor,
    saved: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    bias_grad: bool,
) -> tuple[Tensor, Tensor]:
    """dy [N, K, P, Q], weight [K, C/groups, R, S], saved [N, C, H, W]: the output of the previous block.

    Returns dx like saved, in the layout of conv_dgrad, and db [C] as bias_act_grad does.
    """
    d = conv_dgrad(dy, weight, list(saved.shape[2:]), stride, padding, dilation, groups)
    dx, db = bias_act_reference.bias_act_grad(d, saved, None, act, alpha, gain, clamp, bias_grad)
    return dense(dx, activation_layout(dy, weight)), db
