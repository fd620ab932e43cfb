"""Convolutions of few pixels with large weights, on the CPU, as matrix products: the inner levels of a U-Net.

There the time is that of reading the weight. oneDNN reorders it in each call, and its gradient too, of which each costs
several times as much as the arithmetic; a matrix product reads and writes both where they are. The columns of the
images (im2col), which are small, are laid out as the weight is, [R, S, C] for one in channels_last, else [C, R, S].

Each plan_* takes meta or real tensors and returns the function that runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.ops._memory_format import allocator

#: The most output pixels of all images for which a product is faster, of a convolution and its input gradient, and of
#: the weight gradient, whose reorders cost the most: measured on AVX-512 for 512 to 1024 channels.
FEW, FEW_OF_GRADIENT = 16, 64
#: The fewest elements of such a weight. Smaller ones stay in the cache.
LARGE = 1 << 18

Pair = list[int]
Run = Callable[[Tensor, Tensor], Tensor]


def pixels(y: Tensor) -> int:
    """Of all images of a batch [N, C, H, W]."""
    return y.shape[0] * y.shape[2] * y.shape[3]


def fits(pixels: int, weight: Sequence[int], groups: int, most: int = FEW) -> bool:
    """Whether a product is faster for so many output pixels and a weight [K, C, R, S]."""
    elements = weight[0] * weight[1] * weight[2] * weight[3]
    return 0 < pixels <= most and elements >= LARGE and groups == 1 and weight[0] >= FEW_OF_GRADIENT


def plan_conv(y: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, wide: bool) -> Run:
    """run(x, weight) → y [N, K, P, Q] in channels_last. wide: whether the weight is in channels_last."""
    # Autograd takes no views as results: the products are written into tensors of their own.
    empty = allocator(y.shape, y.dtype, torch.device("cpu"), torch.channels_last)
    kernel = list(weight.shape[2:])

    def run(x: Tensor, weight: Tensor) -> Tensor:
        y = empty()
        torch.mm(_columns(x, kernel, stride, padding, dilation, wide), _matrix(weight, wide).t(), out=_rows(y))
        return y

    return run


def plan_dgrad(dx: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, wide: bool) -> Run:
    """run(dy, weight) → dx [N, C, H, W]."""
    count, channels, *size = dx.shape
    kernel = list(weight.shape[2:])
    taps = kernel[0] * kernel[1]

    def run(dy: Tensor, weight: Tensor) -> Tensor:
        columns = _rows(dy) @ _matrix(weight, wide)  # [N·P·Q, taps·C] or [N·P·Q, C·taps]
        columns = columns.view(count, -1, taps, channels).permute(0, 3, 2, 1) if wide else (
            columns.view(count, -1, channels, taps).permute(0, 2, 3, 1)
        )  # fmt: skip
        return F.fold(columns.flatten(1, 2), tuple(size), tuple(kernel), tuple(dilation), tuple(padding), tuple(stride))

    return run


def plan_wgrad(dy: Tensor, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, wide: bool) -> Run:
    """run(dy, x) → dw [K, C, R, S], in channels_last if `wide`, else contiguous."""
    layout = torch.channels_last if wide else torch.contiguous_format
    empty = allocator(torch.Size([dy.shape[1], x.shape[1], *kernel]), dy.dtype, torch.device("cpu"), layout)

    def run(dy: Tensor, x: Tensor) -> Tensor:
        dw = empty()
        columns = _columns(x, kernel, stride, padding, dilation, wide)
        torch.mm(_rows(dy).t(), columns, out=_matrix(dw, wide))
        return dw

    return run


def _rows(y: Tensor) -> Tensor:
    """[N, K, P, Q] → [N·P·Q, K]."""
    return y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])


def _matrix(weight: Tensor, wide: bool) -> Tensor:
    """[K, C, R, S] → [K, R·S·C] or [K, C·R·S], a view."""
    return (weight.permute(0, 2, 3, 1) if wide else weight).reshape(weight.shape[0], -1)


def _columns(x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, wide: bool) -> Tensor:
    """x [N, C, H, W] → [N·P·Q, R·S·C] or [N·P·Q, C·R·S]: what each output pixel sees."""
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    count, channels, *sides = x.shape
    size = [(sides[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    sn, sc, sh, sw = x.stride()
    seen = x.as_strided(
        (count, *size, channels, *kernel),
        (sn, sh * stride[0], sw * stride[1], sc, sh * dilation[0], sw * dilation[1]),
    )
    if wide:
        seen = seen.permute(0, 1, 2, 4, 5, 3)
    return seen.reshape(count * size[0] * size[1], -1)
