"""filtered_lrelu on the CPU: launches the kernel of fastgan._cpu for float32 and filters [taps].

For double, and for filters [kh, kw], it is the reference's steps with the C++ kernel of upfirdn2d.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import why_no_cpp
from fastgan.ops._library import planned
from fastgan.ops._memory_format import allocator, memory_format
from fastgan.ops.filtered_lrelu import reference
from fastgan.ops.filtered_lrelu.reference import high_size, low_size
from fastgan.ops.upfirdn2d import cpu
from fastgan.ops.upfirdn2d.reference import filter_size


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


def _fused(x: Tensor, *filters: Tensor | None) -> bool:
    return x.dtype == torch.float32 and all(f is None or f.dim() == 1 for f in filters)


def _taps(filter: Tensor | None) -> Tensor | None:
    return None if filter is None else filter.to(torch.float32).contiguous()


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _planned(x, first, second, up, down, first_padding, second_padding, flip, linear, first_gain, gain, slope, clamp):
    """A function of (x, bias, first filter, second filter, masks) that returns y, and the size at the high rate."""
    layout = memory_format(x)
    high = high_size(x, first, up, first_padding)
    size = low_size(high, second, down, second_padding)
    shape = native.cpu().FilteredShape(
        tuple(x.shape), tuple(high), tuple(size), (filter_size(first)[0], filter_size(second)[0]), tuple(up),
        tuple(down), (first_padding[0], first_padding[2]), (second_padding[0], second_padding[2]), bool(flip), linear,
        first_gain, gain, slope, math.nan if clamp is None else clamp, layout is torch.channels_last,
        torch.get_num_threads(),
    )  # fmt: skip
    launch, empty = native.cpu().filtered_lrelu, allocator((*x.shape[:2], *size), x.dtype, x.device, layout)

    def run(x: Tensor, bias: Tensor | None, first: Tensor | None, second: Tensor | None, masks: Tensor | None):
        x, y = x.contiguous(memory_format=layout), empty()
        given = [x, None if bias is None else bias.contiguous(), _taps(first), _taps(second), masks, y]
        launch(shape, *map(_address, given))
        return y

    return run, high


def plan_forward(x, bias, up_filter, down_filter, up, down, padding, gain, slope, clamp, masks):
    if not _fused(x, up_filter, down_filter):
        return lambda *args: reference.forward(cpu.FORWARD.run, *args)
    options = (False, False, float(up[0] * up[1]), gain, slope, clamp)
    launch, high = _planned(x, up_filter, down_filter, up, down, padding, (0, 0, 0, 0), *options)
    size = (*x.shape[:2], high[0], -(-high[1] // 4)) if masks else (0,)

    def run(x, bias, up_filter, down_filter, *_):
        bits = torch.empty(size, dtype=torch.uint8)
        return launch(x, bias, up_filter, down_filter, bits if masks else None), bits

    return run


def plan_linear(x, masks, first, second, up, down, first_padding, second_padding, flip, gain, slope):
    if not _fused(x, first, second):
        return lambda *args: reference.linear(cpu.FORWARD.run, *args)
    options = (flip, True, 1.0, gain, slope, None)
    launch, _ = _planned(x, first, second, up, down, first_padding, second_padding, *options)
    return lambda x, masks, first, second, *_: launch(x, None, first, second, masks.contiguous())


FORWARD = planned("cpp", plan_forward, _why_not)
LINEAR = planned("cpp", plan_linear, _why_not)
