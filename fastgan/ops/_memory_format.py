"""Memory formats: the rule by which every op and its fake choose the layout of the tensors that they allocate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """channels_last for a 4-D tensor whose channel is the fast axis, else contiguous.

    Where both hold (one channel, or 1×1 images) it is contiguous. Sliced and permuted tensors get the format that is
    nearer to their strides, so that a kernel copies as little as possible.
    """
    if x.dim() != 4 or x.is_contiguous():
        return torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.channels_last if x.stride(1) == 1 and x.size(1) > 1 else torch.contiguous_format


def weight_format(weight: torch.Tensor) -> torch.memory_format:
    """The memory format that a convolution's weight [K, C, R, S] asks for.

    Where its size fits both formats (1×1 kernels, one channel) its strides decide, as in PyTorch's own convolutions.
    Otherwise a network in channels_last would change to contiguous at each such layer, and later layers would copy.
    """
    strides = weight.stride()
    both = weight.dim() == 4 and weight.is_contiguous() and weight.shape[1:].numel() > 1
    if both and strides == channels_last_strides(weight.shape):
        return torch.channels_last
    return memory_format(weight)


def channels_last_strides(shape: torch.Size) -> tuple[int, int, int, int]:
    """The strides of a dense tensor [N, C, H, W] in channels_last."""
    _, channels, height, width = shape
    return (channels * height * width, 1, width * channels, channels)


def dense(x: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """x itself if it is dense in that layout, else a dense copy."""
    return x.contiguous(memory_format=layout)


def empty(x: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """An uninitialized tensor of x's shape, dtype and device, dense in that layout."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)


def view_ncs(x: torch.Tensor) -> tuple[int, int, int]:
    """[N, C, *] as (images, channels, pixels)."""
    pixels = 1
    for size in x.shape[2:]:
        pixels *= size
    return x.shape[0], x.shape[1], pixels


def allocator(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, layout: torch.memory_format
) -> Callable[[], torch.Tensor]:
    """A function that returns an uninitialized tensor of that shape, dense in that layout, at the least cost a call."""
    size = tuple(shape)
    strides = torch.empty(size, device="meta", memory_format=layout).stride()
    return functools.partial(torch.empty_strided, size, strides, dtype=dtype, device=device)
