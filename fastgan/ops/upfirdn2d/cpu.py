"""upfirdn2d on the CPU: launches the kernel of fastgan._cpu, for float and double."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import planned
from fastgan.ops._memory_format import allocator, memory_format
from fastgan.ops.upfirdn2d.reference import filter_size, output_size


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


def plan_upfirdn2d(x, filter, up, down, padding, flip, gain):
    layout, dtype = memory_format(x), x.dtype
    size = output_size(x, filter, up, down, padding)
    shape = native.cpu().UpfirdnShape(
        tuple(x.shape), size, filter_size(filter), tuple(up), tuple(down), (padding[0], padding[2]),
        filter is None or filter.dim() == 1, bool(flip), gain, layout is torch.channels_last, CPP_DTYPES[dtype],
        torch.get_num_threads(),
    )  # fmt: skip
    launch, empty = native.cpu().upfirdn2d, allocator((*x.shape[:2], *size), dtype, x.device, layout)

    def run(x, filter, *_):
        x, y = x.contiguous(memory_format=layout), empty()
        taps = None if filter is None else filter.to(dtype).contiguous()
        launch(shape, x.data_ptr(), 0 if taps is None else taps.data_ptr(), y.data_ptr())
        return y

    return run


FORWARD = planned("cpp", plan_upfirdn2d, _why_not)
