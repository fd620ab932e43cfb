"""Equalized learning rate (Karras et al. 2018, arXiv:1710.10196, section 4.1).

Weights are initialized from N(0, 1) and multiplied by He's constant when used. Adam, whose steps do not depend on the
scale of gradients, then changes all layers at the same relative rate.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.ops import bias_act, conv2d_bias_act

GAIN = sqrt(2)  # He's, for rectifiers


class EqualizedConv(nn.Module):
    """Convolution → activation on [N, C, H, W]. State dict: `weight`, `bias`. gain: of the weights' standard deviation
    over 1/√fan_in. act: see `fastgan.ops.ACTIVATIONS`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        padding: int = 0,
        gain: float = GAIN,
        act: str = "leaky_relu",
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale, self.padding, self.act = gain / sqrt(in_channels * kernel**2), padding, act

    def forward(self, x: Tensor) -> Tensor:
        return conv2d_bias_act(x, self.weight * self.scale, self.bias, self.act, padding=self.padding)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, act={self.act}"


class EqualizedLinear(nn.Module):
    """Linear layer → activation on [N, C], otherwise as `EqualizedConv`."""

    def __init__(self, in_features: int, out_features: int, *, gain: float = GAIN, act: str = "leaky_relu"):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale, self.act = gain / sqrt(in_features), act

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias)
        return x if self.act == "linear" else bias_act(x, None, self.act)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, act={self.act}"
