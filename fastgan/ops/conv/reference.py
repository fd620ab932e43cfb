"""Specification of the convolution family, in plain PyTorch.

Three ops, each linear in both of its tensors and each the derivative of the others:

    conv        y  [N, K, P, Q] = x [N, C, H, W] ∗ w [K, C/groups, R, S]
    conv_dgrad  dx [N, C, H, W]: the gradient of conv with respect to x, for the cotangent dy; as a forward pass it is
                the transposed convolution
    conv_wgrad  dw [K, C/groups, R, S]: the gradient of conv with respect to w

two that are both gradients of conv and of conv_dgrad (conv_backward, conv_dgrad_backward), and three that contain
`bias_act`, so that it needs no pass over memory of its own, one op and two steps of the ops on
stacks (reference_stack.py):

    conv_bias_act   bias_act(conv(x, w), b): a block of a network; its steps are rounded as in bias_act, but between the
                    two the result may stay in the accumulation dtype
    conv_dgrad_act  bias_act_grad(conv_dgrad(dy, w), saved): from the pre-activation gradient of a block to that of the
                    block before, whose output is `saved`; a step of conv_stack_dgrad
    conv_slope      bias_act_grad(conv(x, w), saved): a step of conv_stack_tangent

PyTorch's convolutions (oneDNN, cuDNN) do the arithmetic, in the tensors' dtype with their own accumulation.
Results are dense: activations in channels_last when either operand is, weights as `channels_last` says.

Since the family is closed, a gradient penalty computes only the gradients that it needs. PyTorch's own double backward
of a convolution always computes all its outputs, and computes the weight gradient as a convolution with a kernel as
large as the image, much slower than conv_wgrad.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format, weight_format
from fastgan.ops.bias_act import reference as bias_act_reference

Pair = list[int]


def activation_layout(x: Tensor, weight: Tensor) -> torch.memory_format:
    """channels_last if either operand is: oneDNN and cuDNN then compute in it."""
    both = (memory_format(x), weight_format(weight))
    return torch.channels_last if torch.channels_last in both else torch.contiguous_format


def in_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution with these operands gives channels_last."""
    return activation_layout(x, weight) is torch.channels_last


def weight_layout(channels_last: bool) -> torch.memory_format:
    """The layout of a weight gradient."""
    return torch.channels_last if channels_last else torch.contiguous_format


def conv(x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Tensor:
    """x [N, C, H, W], weight [K, C/groups, R, S] → [N, K, P, Q]."""
    y = torch.convolution(x, weight, None, stride, padding, dilation, False, [0, 0], groups)
    return dense(y, activation_layout(x, weight))


def conv_dgrad(
    dy: Tensor, weight: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """dy [N, K, P, Q], weight [K, C/groups, R, S], size (H, W) → [N, C, H, W]."""
    extra = output_padding(dy.shape, weight, size, stride, padding, dilation)
    dx = torch.convolution(dy, weight, None, stride, padding, dilation, True, extra, groups)
    return dense(dx, activation_layout(dy, weight))


def output_padding(
    shape: torch.Size, weight: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> list[int]:
    """The rows and columns of a transposed convolution's result beyond the smallest, for dy [N, K, P, Q] and size."""
    kernel = weight.shape[2:]
    return [
        size[i] - ((shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1)
        for i in range(2)
    ]


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


def conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Tensor, Tensor]:
    """conv_dgrad and conv_wgrad for dy [N, K, P, Q], x [N, C, H, W], weight [K, C/groups, R, S]."""
    options = stride, padding, dilation, groups
    dx = conv_dgrad(dy, weight, list(x.shape[2:]), *options)
    return dx, conv_wgrad(dy, x, list(weight.shape[2:]), *options, in_channels_last(weight, weight))


def conv_dgrad_backward(
    ddx: Tensor, dy: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Tensor, Tensor]:
    """The gradients of conv_dgrad(dy, weight) for the cotangent ddx [N, C, H, W]: like dy and like weight."""
    options = stride, padding, dilation, groups
    dw = conv_wgrad(dy, ddx, list(weight.shape[2:]), *options, in_channels_last(weight, weight))
    return conv(ddx, weight, *options), dw


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


def conv_slope(
    x: Tensor,
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
) -> Tensor:
    """x [N, C, H, W], weight [K, C/groups, R, S], saved [N, K, P, Q] → conv(x, w) times the slope at saved."""
    z = conv(x, weight, stride, padding, dilation, groups)
    return bias_act_reference.bias_act_grad(z, saved, None, act, alpha, gain, clamp, False)[0]
