"""filtered_lrelu in Triton: launches the kernel of triton_kernels.py, which is imported at the first launch.

Separable filters run in one launch. A filter [kh, kw] (StyleGAN3-R's) has no band matrix along one axis: upfirdn2d
applies it, before or after this kernel with the other filter, in float32.

Where CUDA C++ would win: of a column of a band matrix 6 to 24 elements of 16 to 128 are taps, and the others are
multiplied too. This costs 1,500 to 1,900 operations for a pixel of StyleGAN3-T's layers, of which a polyphase sum needs
150. At 300 TFLOP/s that is longer than reading x and writing y takes, so the kernel is bound by its products. A CUDA
C++ kernel could leave out the blocks of 16×8 that are zero, and could sum float32 without TF32 on ordinary cores, in
registers, which Triton cannot index.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.ops._launch import FP_FUSION, blocks, launch, on, power_of_two, why_no_triton
from fastgan.ops._library import planned
from fastgan.ops._memory_format import allocator, dense, memory_format
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.filtered_lrelu.reference import high_size, low_size
from fastgan.ops.upfirdn2d.reference import filter_size, upfirdn2d
from fastgan.ops.upfirdn2d.register import upfirdn2d_op

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_ONE, _NONE = (1, 1), (0, 0, 0, 0)
_LEAST, _MOST = 16, 128  # sides of a matrix: what tensor cores take, and what fits into registers
_TILE_BYTES = 16384  # of a tile's samples at the high rate, in x's dtype: more do not fit into registers
_REPEATS = 8  # blocks of channels of a program, which share its matrices
_WARPS = 8
_FLOPS_PER_BYTE = 75  # of an H100 with TF32: what weighs as much as a byte of x
_SECTOR = 32  # bytes that memory reads at once
_MOST_PADDING = 1 << 20  # the kernel's OFFSET
_MOST_NUMBERS = 2**31  # of an image: within one, offsets have 32 bits


class Axis(NamedTuple):
    """A tile along one axis: samples of x and at the high rate, pixels of y, and how many of these are computed."""

    inputs: int
    high: int
    out: int
    own: int


class Tile(NamedTuple):
    vertical: Axis
    horizontal: Axis
    channels: int

    @property
    def flops(self) -> int:
        """Of the four products of one channel."""
        v, h = self.vertical, self.horizontal
        return 2 * (h.inputs * v.inputs * v.high + v.high * h.inputs * h.high
                    + v.high * h.high * h.out + h.out * v.high * v.out)  # fmt: skip


def axes(first: int, second: int, up: int, down: int, multiple: int) -> list[Axis]:
    """The tiles along one axis for filters of so many taps. A tile computes a multiple of `multiple` pixels of y."""
    found = []
    for high in (16, 32, 64, 128):
        for inputs in (16, 32, 64, 128):
            # From `inputs` samples, the first of them up to `up − 1` after the start, come so many at the high rate.
            reached = min(high, inputs * up - first + 1)
            # All samples up to the next tile's first one, with those that the last pixel needs besides.
            own = (reached - second + 1) // down // multiple * multiple
            if own > 0:
                found.append(Axis(inputs, high, max(_LEAST, power_of_two(own)), own))
    return [axis for axis in found if axis.out <= _MOST]


@functools.cache
def select_tile(
    size: tuple[int, int], channels: int, taps: tuple[int, int], up: tuple[int, int], down: tuple[int, int],
    channels_last: bool, itemsize: int,
) -> Tile | None:  # fmt: skip
    """The tile that needs the least work for y of that size, or None if the filters are longer than any.

    A pure function of shapes, so that results repeat. taps: of the first and of the second filter.
    """
    vertical = axes(*taps, up[0], down[0], 1)
    # Four masks are a byte, which one tile writes.
    horizontal = axes(*taps, up[1], down[1], {1: 4, 2: 2, 3: 4}.get(down[1] % 4, 1))
    best: tuple[float, Tile] | None = None
    most = _TILE_BYTES // itemsize
    for v in vertical:
        for h in horizontal:
            area = max(v.high * h.high, v.inputs * h.inputs)
            if area > most:
                continue
            tile = Tile(v, h, min(16, power_of_two(channels), max(1, most // area)))
            run = itemsize * (tile.channels if channels_last else h.inputs)
            read = v.inputs * h.inputs * itemsize * max(1.0, _SECTOR / run)
            work = blocks(size[0], v.own) * blocks(size[1], h.own) * (tile.flops / _FLOPS_PER_BYTE + read)
            if best is None or work < best[0]:
                best = work, tile
    return None if best is None else best[1]


def products(dtype: torch.dtype) -> str:
    """How the factors of float32 products are rounded. For bfloat16 to TF32's 11 bits, which images have not; for
    float32 as three products of TF32, or not at all where PyTorch's setting for convolutions forbids TF32."""
    if dtype == torch.bfloat16:
        return "tf32"
    fast = dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    return "tf32x3" if fast else "ieee"


class Stage(NamedTuple):
    """What the kernel computes: all, or without the filters [kh, kw], which upfirdn2d applies before or after it."""

    first: Tensor | None
    second: Tensor | None
    up: Sequence[int]
    down: Sequence[int]
    first_padding: Sequence[int]
    second_padding: Sequence[int]
    size: list[int]
    """Height and width of what it reads."""


def _stage(x, first, second, up, down, first_padding, second_padding) -> Stage:
    size = list(x.shape[2:])
    if _is_2d(first):
        size = high_size(x, first, up, first_padding)
        first, up, first_padding = None, _ONE, _NONE
    if _is_2d(second):
        second, down, second_padding = None, _ONE, _NONE
    return Stage(first, second, up, down, first_padding, second_padding, size)


def _is_2d(filter: Tensor | None) -> bool:
    return filter is not None and filter.dim() == 2


def _sizes(stage: Stage, x: Tensor) -> tuple[list[int], list[int]]:
    """Height and width at the high rate, and of what the kernel writes."""
    image = torch.empty(*x.shape[:2], *stage.size, device="meta")
    high = high_size(image, stage.first, stage.up, stage.first_padding)
    return high, low_size(high, stage.second, stage.down, stage.second_padding)


def _tile(stage: Stage, x: Tensor, size: list[int]) -> Tile | None:
    itemsize = x.element_size() if stage.size == list(x.shape[2:]) else 4  # else it reads upfirdn2d's result
    return select_tile(
        (size[0], size[1]), x.shape[1], (filter_size(stage.first)[0], filter_size(stage.second)[0]),
        (stage.up[0], stage.up[1]), (stage.down[0], stage.down[1]),
        memory_format(x) is torch.channels_last, itemsize,
    )  # fmt: skip


def _why_not(x, *options) -> str | None:
    reason = why_no_triton(x, _FLOATS)
    if reason is not None:
        return reason
    stage = _stage(x, *options)
    if max(map(abs, (*stage.first_padding, *stage.second_padding))) >= _MOST_PADDING // 2:
        return f"the Triton kernel takes a padding of less than {_MOST_PADDING // 2:,} pixels"
    high, size = _sizes(stage, x)
    numbers = x.shape[1] * max(math.prod(stage.size), high[0] * blocks(high[1], 4), math.prod(size))
    if numbers >= _MOST_NUMBERS:
        return f"the Triton kernel takes images of less than {_MOST_NUMBERS:,} numbers"
    if _tile(stage, x, size) is None:
        return "the filters are longer than a tile of the Triton kernel"
    return None


def why_not_forward(x, bias, up_filter, down_filter, up, down, padding, *_) -> str | None:
    return _why_not(x, up_filter, down_filter, up, down, padding, _NONE)


def why_not_linear(x, masks, first, second, up, down, first_padding, second_padding, *_) -> str | None:
    return _why_not(x, first, second, up, down, first_padding, second_padding)


def _resample(x, filter, up, down, padding, flip, gain) -> Tensor:
    """upfirdn2d by its Triton kernel if there is one for these arguments."""
    arguments = (x, filter, list(up), list(down), list(padding), flip, gain)
    for kernel in upfirdn2d_op.kernels:
        if kernel.name == "triton" and kernel.why_not(*arguments) is None:
            return kernel.run(*arguments)
    return upfirdn2d(*arguments)


def _planned(
    x: Tensor, options: tuple[Any, ...], flip: bool, first_gain: float, constants: dict[str, Any]
) -> tuple[Callable[..., Tensor], list[int]]:
    """A function of (x, bias, first filter, second filter, masks) that returns y, and the size at the high rate.

    options: the two filters, up, down, and both paddings.
    """
    first, second, up, down, first_padding, second_padding = options
    stage, layout, wide = _stage(x, *options), memory_format(x), accumulation_dtype(x.dtype)
    before, after = _is_2d(first), _is_2d(second)
    high, size = _sizes(stage, x)
    tile = _tile(stage, x, size)
    assert tile is not None  # _why_not
    v, h = tile.vertical, tile.horizontal
    groups = x.shape[0] * blocks(x.shape[1], tile.channels)
    repeats = min(_REPEATS, power_of_two(groups))
    programs = blocks(size[0], v.own) * blocks(size[1], h.own) * blocks(groups, repeats)
    top, left = stage.second_padding[0], stage.second_padding[2]
    start = top + stage.first_padding[0], left + stage.first_padding[2]
    numbers = (groups, x.shape[1], *stage.size, *high, *size, *start, top, left)
    dtype = wide if before else x.dtype  # of what the kernel reads
    constants = {
        "UP_H": stage.up[0], "UP_W": stage.up[1], "DOWN_H": stage.down[0], "DOWN_W": stage.down[1],
        "FIRST": filter_size(stage.first)[0], "SECOND": filter_size(stage.second)[0],
        "HAS_FIRST": stage.first is not None, "HAS_SECOND": stage.second is not None, "FLIP": flip,
        "FIRST_GAIN": 1.0 if before else first_gain, **constants, "CHANNELS_LAST": layout is torch.channels_last,
        "HALF": dtype == torch.float16, "PRECISION": products(dtype),
        "REPEATS": repeats, "BLOCK_C": tile.channels, "IN_H": v.inputs, "IN_W": h.inputs, "HIGH_H": v.high,
        "HIGH_W": h.high, "OUT_H": v.out, "OUT_W": h.out, "OWN_H": v.own, "OWN_W": h.own,
        **FP_FUSION, "num_warps": _WARPS,
    }  # fmt: skip
    constants["HAS_BIAS"] = constants["HAS_BIAS"] and not before
    empty = allocator((*x.shape[:2], *size), wide if after else x.dtype, x.device, layout)

    def run(x: Tensor, bias: Tensor | None, first: Tensor | None, second: Tensor | None, masks: Tensor) -> Tensor:
        given = dense(x, layout)
        if before:
            given = given.to(wide) if bias is None else given.to(wide) + bias.to(wide).view(1, -1, 1, 1)
            given = dense(_resample(given, first, up, _ONE, first_padding, flip, first_gain), layout)
        y = empty()
        if y.numel():
            from fastgan.ops.filtered_lrelu.triton_kernels import filtered_lrelu_kernel

            tensors = (bias, None if before else first, None if after else second)
            pointers = [given if t is None else t.contiguous() for t in tensors]  # unused where None
            with on(x):
                launch(filtered_lrelu_kernel, (programs,))(given, *pointers, masks, y, *numbers, **constants)
        if not after:
            return y
        return dense(_resample(y, second, _ONE, down, second_padding, flip, 1.0).to(x.dtype), layout)

    return run, high


def plan_forward(x, bias, up_filter, down_filter, up, down, padding, gain, slope, clamp, masks):
    constants = {
        "HAS_BIAS": bias is not None, "LINEAR": False, "MASKS": bool(masks), "GAIN": float(gain),
        "SLOPE": float(slope), "HAS_CLAMP": clamp is not None, "CLAMP": 0.0 if clamp is None else float(clamp),
    }  # fmt: skip
    options = (up_filter, down_filter, up, down, padding, _NONE)
    launched, high = _planned(x, options, False, float(up[0] * up[1]), constants)
    shape, device = (*x.shape[:2], high[0], blocks(high[1], 4)) if masks else (0,), x.device

    def run(x, bias, up_filter, down_filter, *_):
        bits = torch.empty(shape, dtype=torch.uint8, device=device)
        return launched(x, bias, up_filter, down_filter, bits), bits

    return run


def plan_linear(x, masks, first, second, up, down, first_padding, second_padding, flip, gain, slope):
    constants = {
        "HAS_BIAS": False, "LINEAR": True, "MASKS": True, "GAIN": float(gain), "SLOPE": float(slope),
        "HAS_CLAMP": False, "CLAMP": 0.0,
    }  # fmt: skip
    options = (first, second, up, down, first_padding, second_padding)
    launched, _ = _planned(x, options, bool(flip), 1.0, constants)
    return lambda x, masks, first, second, *_: launched(x, None, first, second, masks.contiguous())


FORWARD = planned("triton", plan_forward, why_not_forward)
LINEAR = planned("triton", plan_linear, why_not_linear)
