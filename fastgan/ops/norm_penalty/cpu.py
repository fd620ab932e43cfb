"""norm_penalty on the CPU: fastgan._cpu, float and double."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import dense, empty, memory_format


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


def _describe(x: Tensor):
    kernels = native.cpu()
    samples = x.shape[0]
    size = x.numel() // samples if samples else 0
    return kernels, kernels.SampleShape(samples, size, CPP_DTYPES[x.dtype], torch.get_num_threads())


def norm_penalty(g, target):
    g = dense(g, memory_format(g))
    kernels, shape = _describe(g)
    value, slope, size = (g.new_empty(g.shape[0]) for _ in range(3))
    kernels.norm_penalty(shape, target, g.data_ptr(), value.data_ptr(), slope.data_ptr(), size.data_ptr())
    return value, slope, size


def sample_scale(a, c):
    layout = memory_format(a)
    a, c, y = dense(a, layout), c.contiguous(), empty(a, layout)
    kernels, shape = _describe(a)
    kernels.sample_scale(shape, a.data_ptr(), c.data_ptr(), y.data_ptr())
    return y


def sample_dot(a, b):
    layout = memory_format(a)
    a, b = dense(a, layout), dense(b, layout)
    kernels, shape = _describe(a)
    result = a.new_empty(a.shape[0])
    kernels.sample_dot(shape, a.data_ptr(), b.data_ptr(), result.data_ptr())
    return result


NORM_PENALTY = Kernel("cpp", norm_penalty, _why_not)
SAMPLE_SCALE = Kernel("cpp", sample_scale, _why_not)
SAMPLE_DOT = Kernel("cpp", sample_dot, _why_not)
