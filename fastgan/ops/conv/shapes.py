"""The results of convolutions without their values: shapes and layouts, for fakes and for plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.conv.reference import activation_layout, in_channels_last, weight_layout


def output_shape(
    shape: Sequence[int], weight: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """[N, K, P, Q] of a convolution of [N, C, H, W] with a weight [K, C/groups, R, S]."""
    size = [(shape[2 + i] + 2 * padding[i] - dilation[i] * (weight[2 + i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    return (shape[0], weight[0], *size)


def fake_conv(x, weight, stride, padding, dilation, groups):
    shape = output_shape(x.shape, weight.shape, stride, padding, dilation)
    return x.new_empty(shape).to(memory_format=activation_layout(x, weight))


def fake_dgrad(dy, weight, size, stride, padding, dilation, groups):
    shape = (dy.shape[0], weight.shape[1] * groups, *size)
    return dy.new_empty(shape).to(memory_format=activation_layout(dy, weight))


def fake_wgrad(dy, x, kernel, stride, padding, dilation, groups, channels_last):
    shape = (dy.shape[1], x.shape[1] // groups, *kernel)
    return dy.new_empty(shape).to(memory_format=weight_layout(channels_last))


def fake_backward(dy, x, weight, stride, padding, dilation, groups):
    options = stride, padding, dilation, groups
    dx = fake_dgrad(dy, weight, x.shape[2:], *options)
    return dx, fake_wgrad(dy, x, weight.shape[2:], *options, in_channels_last(weight, weight))


def fake_dgrad_backward(ddx, dy, weight, stride, padding, dilation, groups):
    options = stride, padding, dilation, groups
    dw = fake_wgrad(dy, ddx, weight.shape[2:], *options, in_channels_last(weight, weight))
    return fake_conv(ddx, weight, *options), dw


def forward_like(x: Tensor, weight: Tensor, *options: Any) -> Tensor:
    """A meta tensor like conv(x, weight)."""
    # Not of x.to("meta"), which changes the strides of a tensor that is not dense.
    y = torch.empty(output_shape(x.shape, weight.shape, *options[:3]), dtype=x.dtype, device="meta")
    return y.to(memory_format=activation_layout(x, weight))


def dgrad_like(dy: Tensor, weight: Tensor, *options: Any) -> Tensor:
    """A meta tensor like conv_dgrad(dy, weight)."""
    size, *_, groups = options
    dx = torch.empty((dy.shape[0], weight.shape[1] * groups, *size), dtype=dy.dtype, device="meta")
    return dx.to(memory_format=activation_layout(dy, weight))


def like(x: Tensor, layout: torch.memory_format) -> Tensor:
    """A meta tensor like x, dense in that layout."""
    return torch.empty(x.shape, dtype=x.dtype, device="meta", memory_format=layout)
