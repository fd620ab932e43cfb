"""Specification of the convolution family, in plain PyTorch.

Three ops, each linear in both of its tensors and each the derivative of the others:

    conv        y  [N, K, P, Q] = x [N, C, H, W] ∗ w [K, C/groups, R, S]
    conv_dgrad  dx [N, C, H, W]: dy carried back through w, the gradient of conv with respect to x; as a forward pass it
                is the transposed convolution
    conv_wgrad  dw [K, C/groups, R, S]: the gradient of conv with respect to w

The library's convolutions (oneDNN, cuDNN) do the arithmetic, in the tensors' dtype with the library's own accumulation.
Results are dense: activations in channels_last when either operand is, weights as `channels_last` says.

That they form a closed family is what keeps wasted passes out of penalties: PyTorch's own double backward of a
convolution always computes all its outputs, and its weight gradient there is an oddly shaped convolution, much slower
than conv_wgrad.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._layout import dense, memory_format

Pair = list[int]


def activation_layout(x: Tensor, weight: Tensor) -> torch.memory_format:
    """channels_last when either operand is: the libraries then compute in it anyway."""
    both = (memory_format(x), memory_format(weight))
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
    shape = [dy.shape[1], x.shape[1] // groups, *kernel]
    # Only the shape of the weight is looked at; its values do not enter its own gradient.
    like = dy.new_empty(1).expand(shape)
    mask = [False, True, False]
    _, dw, _ = torch.ops.aten.convolution_backward(
        dy, x, like, None, stride, padding, dilation, False, [0, 0], groups, mask
    )
    return dense(dw, weight_layout(channels_last))
