"""norm_penalty on the CPU: fastgan._cpu, float and double."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import planned
from fastgan.ops._memory_format import allocator, memory_format


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


def _shape(x: Tensor):
    samples = x.shape[0]
    size = x.numel() // samples if samples else 0
    return native.cpu().SampleShape(samples, size, CPP_DTYPES[x.dtype], torch.get_num_threads())


def plan_norm_penalty(g, target):
    shape, layout, samples = _shape(g), memory_format(g), g.shape[0]
    launch, dtype = native.cpu().norm_penalty, g.dtype

    def run(g, target):
        g = g.contiguous(memory_format=layout)
        value, slope, size = (torch.empty(samples, dtype=dtype) for _ in range(3))
        launch(shape, target, g.data_ptr(), value.data_ptr(), slope.data_ptr(), size.data_ptr())
        return value, slope, size

    return run


def plan_sample_scale(a, c):
    shape, layout = _shape(a), memory_format(a)
    launch, empty = native.cpu().sample_scale, allocator(a.shape, a.dtype, a.device, layout)

    def run(a, c):
        a, c, y = a.contiguous(memory_format=layout), c.contiguous(), empty()
        launch(shape, a.data_ptr(), c.data_ptr(), y.data_ptr())
        return y

    return run


def plan_sample_dot(a, b):
    shape, layout, samples = _shape(a), memory_format(a), a.shape[0]
    launch, dtype = native.cpu().sample_dot, a.dtype

    def run(a, b):
        a, b = a.contiguous(memory_format=layout), b.contiguous(memory_format=layout)
        dot = torch.empty(samples, dtype=dtype)
        launch(shape, a.data_ptr(), b.data_ptr(), dot.data_ptr())
        return dot

    return run


NORM_PENALTY = planned("cpp", plan_norm_penalty, _why_not)
SAMPLE_SCALE = planned("cpp", plan_sample_scale, _why_not)
SAMPLE_DOT = planned("cpp", plan_sample_dot, _why_not)
