"""Memory formats inside a network."""

from __future__ import annotations

from torch import Tensor

from fastgan.ops._memory_format import weight_format


def match_weight_format(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, C, H, W] in the memory format of a convolution's weight.

    A first feature map (from a linear layer, a constant, an image of one channel) is not in channels_last by itself,
    and a chain of skip connections keeps the format of its first tensor.
    """
    return x.contiguous(memory_format=weight_format(weight))
