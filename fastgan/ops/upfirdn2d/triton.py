"""upfirdn2d in Triton: launches the kernel of triton_kernels.py, which is imported at the first launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.ops._launch import FP_FUSION, blocks, launch, on, power_of_two, why_no_triton
from fastgan.ops._library import planned
from fastgan.ops._memory_format import allocator, memory_format
from fastgan.ops.upfirdn2d.reference import filter_size, output_size

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_THREADS = 128  # of a program
_OUTPUT_ROWS, _INPUT_ROWS = 8, 8  # about as many rows of a program, which share what they load
#: Loads of a program, which are unrolled: the limit of the kernel's size, and of what registers keep for a filter that
#: is not separable.
_MOST_LOADS, _MOST_KEPT = 256, 64
_MOST = 2**31 - 2**16  # what is counted in 32 bits


def _why_not(
    x: Tensor, filter: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int], *_
) -> str | None:
    taps, most = filter_size(filter), _most_loads(_separable(filter))
    if _loads(1, taps, up, down) > most:
        return f"the Triton kernel takes filters that meet up to {most} pixels, not {list(taps)}"
    height, width = output_size(x, filter, up, down, padding)
    if x.shape[1] * max(width * up[1], x.shape[3] * down[1]) > _MOST or x.shape[0] * x.shape[1] * height > _MOST:
        return f"the Triton kernel takes rows of less than {_MOST:,} numbers, and as many rows"
    return why_no_triton(x, _FLOATS)


def _kernels():
    from fastgan.ops.upfirdn2d import triton_kernels

    return triton_kernels


def _separable(filter: Tensor | None) -> bool:
    return filter is None or filter.dim() == 1


def _most_loads(separable: bool) -> int:
    return _MOST_LOADS if separable else _MOST_KEPT


def _loads(groups: int, taps: Sequence[int], up: Sequence[int], down: Sequence[int]) -> int:
    """How many loads a program with so many groups of rows has, each of a tile."""
    rows, columns = (((f - 1) * d + n - 1) // f + 1 for f, d, n in zip(up, down, taps, strict=True))
    return (rows + (groups - 1) * down[0]) * columns


def rows(height: int, taps: Sequence[int], up: Sequence[int], down: Sequence[int], separable: bool) -> int:
    """How many output rows a program computes: whole groups."""
    groups = min(max(1, _OUTPUT_ROWS // up[0]), max(1, _INPUT_ROWS // down[0]), power_of_two(blocks(height, up[0])))
    while groups > 1 and _loads(groups, taps, up, down) > _most_loads(separable):
        groups //= 2
    return groups * up[0]


def tile(
    groups: int, channels: int, channel_is_fast: bool, itemsize: int, taps: int, separable: bool
) -> tuple[int, int]:
    """(groups of columns, channels) of a program: a pure function of the sizes.

    Threads take 16 bytes of neighboring channels each, 8 where the registers must hold many taps' inputs. Where the
    pixel is the fast axis they take one number, since the columns that taps need are no multiples of 16 bytes apart,
    and neighboring threads must load neighboring numbers.
    """
    if channel_is_fast:
        numbers = _THREADS * max(1, (16 if taps <= (8 if separable else 4) else 8) // itemsize)
        width = min(16, power_of_two(groups))
        some = min(numbers // width, power_of_two(channels))
        return min(numbers // some, power_of_two(groups)), some
    width = min(_THREADS, power_of_two(groups))
    return width, min(_THREADS // width, power_of_two(channels))


def plan_upfirdn2d(x, filter, up, down, padding, flip, gain):
    layout = memory_format(x)
    fast = layout is torch.channels_last
    images, channels, height, width = x.shape
    out_height, out_width = output_size(x, filter, up, down, padding)
    taps, separable = filter_size(filter), _separable(filter)
    channels, images = (channels, images) if fast else (images * channels, 1)
    groups = blocks(out_width, up[1])
    block_x, block_c = tile(groups, channels, fast, x.element_size(), max(taps), separable)
    count = rows(out_height, taps, up, down, separable)
    constants = {
        "GAIN": float(gain), "UP_Y": up[0], "UP_X": up[1], "DOWN_Y": down[0], "DOWN_X": down[1],
        "SHIFT_Y": padding[0] % up[0], "SHIFT_X": padding[2] % up[1], "TAPS_Y": taps[0], "TAPS_X": taps[1],
        "SEPARABLE": separable, "HAS_FILTER": filter is not None, "FLIP": bool(flip), "CHANNEL_IS_FAST": fast,
        "DOUBLE": x.dtype == torch.float64, "ROWS": count, "BLOCK_X": block_x, "BLOCK_C": block_c, **FP_FUSION,
    }  # fmt: skip
    sizes = height, width, out_height, out_width, channels, padding[0] // up[0], padding[2] // up[1]
    programs = blocks(groups, block_x) * blocks(out_height, count) * blocks(channels, block_c) * images
    empty = allocator((*x.shape[:2], out_height, out_width), x.dtype, x.device, layout)

    def run(x, filter, *_):
        x, y = x.contiguous(memory_format=layout), empty()
        if programs:
            taps = x if filter is None else filter.contiguous()
            with on(x):
                launch(_kernels().upfirdn2d_kernel, (programs,))(x, taps, y, *sizes, **constants)
        return y

    return run


FORWARD = planned("triton", plan_upfirdn2d, _why_not)
