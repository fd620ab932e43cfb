"""Convolutions with few output channels on a CPU, such as the last 7×7 one of a generator of images.

oneDNN computes output channels in blocks of 16 (8 without AVX-512), so that of a convolution to 3 channels most is
thrown away. Here each output pixel of a block of `s` in a row becomes channels of one pixel, by a convolution with
stride s whose weights are the original ones at s places: [K, C, R, S] → [s · K, C, R, S + s − 1]. The products are the
same, and about as many zeros are multiplied. Measured by `python benchmarks/translation_layers.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: More output channels fill a block of oneDNN's well enough.
MOST_OUTPUTS = 4
#: Narrower kernels gain little, since the weights are widened by s − 1.
LEAST_WIDTH = 5
#: Fewer multiplications than this take no longer than making the weights.
LEAST_PRODUCTS = 8_000_000


@functools.cache
def _block() -> int:
    return 4 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 2


def takes(layer: Any, x: Tensor) -> bool:
    """Whether `convolved` is faster for a Conv2d of an ordinary float32 tensor x on a CPU."""
    height, width = layer.kernel_size
    if layer.out_channels > MOST_OUTPUTS or width < LEAST_WIDTH or x.dtype is not torch.float32 or x.dim() != 4:
        return False
    # A norm computes the weight, and moves on, each time that it is read.
    weight = vars(layer)["_parameters"].get("weight")
    if weight is None:
        return False
    plain = layer.stride == (1, 1) and layer.dilation == (1, 1) and layer.groups == 1
    if not plain or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return False
    if weight.dtype is not torch.float32 or torch.is_autocast_enabled("cpu") or x.shape[1] != weight.shape[1]:
        return False
    rows = x.shape[2] + 2 * layer.padding[0] - height + 1
    columns = x.shape[3] + 2 * layer.padding[1] - width + 1
    if rows < 1 or columns < _block() or columns % _block():
        return False
    return x.shape[0] * rows * columns * weight.numel() >= LEAST_PRODUCTS


def convolved(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """layer(x) [N, K, H', W'], in channels_last."""
    block, weight, bias = _block(), layer.weight, layer.bias
    wide = torch.cat([F.pad(weight, (i, block - 1 - i)) for i in range(block)])
    if x.is_contiguous(memory_format=torch.channels_last):
        wide = wide.contiguous(memory_format=torch.channels_last)
    y = F.conv2d(x, wide, None if bias is None else bias.repeat(block), (1, block), layer.padding)
    n, _, rows, columns = y.shape
    return y.permute(0, 2, 3, 1).reshape(n, rows, columns * block, weight.shape[0]).permute(0, 3, 1, 2)
