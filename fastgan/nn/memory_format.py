"""Memory formats inside a network."""

from __future__ import annotations

from torch import Tensor

from fastgan.ops._memory_format import weight_format


def match_weight_format(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, C, H, W] in the memory format that a convolution's weight stands for.

    What a network makes its first feature map of (a linear layer, a learned map, one channel) has no format of its own,
    and a chain of skip connections keeps the one that it begins with.
    """
    return x.contiguous(memory_format=weight_format(weight))
