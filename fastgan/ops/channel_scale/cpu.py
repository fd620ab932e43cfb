"""channel_scale, channel_dot and scale_noise_bias_act on the CPU: fastgan._cpu, float and double.

One kernel computes channel_scale and the epilogue, one channel_dot and the epilogue's gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import planned
from fastgan.ops._memory_format import allocator, memory_format, view_ncs

_IDENTITY = (1.0, 1.0, math.inf)  # alpha, gain and clamp of no activation


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


def _shape(x: Tensor, layout: torch.memory_format):
    fast = layout is torch.channels_last
    return native.cpu().BiasActShape(*view_ncs(x), fast, CPP_DTYPES[x.dtype], torch.get_num_threads())


def _limit(clamp: float | None) -> float:
    return math.inf if clamp is None else clamp


def plan_scale(x, scale):
    layout = memory_format(x)
    shape, launch = _shape(x, layout), native.cpu().scaled
    empty = allocator(x.shape, x.dtype, x.device, layout)

    def run(x, scale):
        x, scale, y = x.contiguous(memory_format=layout), scale.contiguous(), empty()
        launch(shape, *_IDENTITY, False, x.data_ptr(), scale.data_ptr(), 0, 0, y.data_ptr())
        return y

    return run


def plan_dot(a, b):
    layout = memory_format(a)
    shape, launch, size, dtype = _shape(a, layout), native.cpu().scaled_grad, tuple(a.shape[:2]), a.dtype

    def run(a, b):
        a, b = a.contiguous(memory_format=layout), b.contiguous(memory_format=layout)
        dot, address = torch.empty(size, dtype=dtype), a.data_ptr()
        launch(shape, *_IDENTITY, address, address, b.data_ptr(), 0, 0, dot.data_ptr(), 0, 0)
        return dot

    return run


def plan_forward(x, scale, noise, bias, alpha, gain, clamp):
    layout = memory_format(x)
    shape, launch, options = _shape(x, layout), native.cpu().scaled, (alpha, gain, _limit(clamp))
    empty, one_noise = allocator(x.shape, x.dtype, x.device, layout), noise is not None and noise.shape[0] == 1

    def run(x, scale, noise, bias, *_):
        x, scale, y = x.contiguous(memory_format=layout), scale.contiguous(), empty()
        noise = None if noise is None else noise.contiguous()
        bias = None if bias is None else bias.contiguous()
        launch(
            shape, *options, one_noise, x.data_ptr(), scale.data_ptr(), 0 if noise is None else noise.data_ptr(),
            0 if bias is None else bias.data_ptr(), y.data_ptr(),
        )  # fmt: skip
        return y

    return run


def plan_grad(dy, saved, x, scale, alpha, gain, clamp, scale_grad, noise_grad, bias_grad):
    layout = memory_format(saved)
    shape, launch, options = _shape(dy, layout), native.cpu().scaled_grad, (alpha, gain, _limit(clamp))
    empty, dtype = allocator(dy.shape, dy.dtype, dy.device, layout), dy.dtype
    n, c, *pixels = dy.shape
    sizes = [(n, c) if scale_grad else (0,), (n, 1, *pixels) if noise_grad else (0,), (c,) if bias_grad else (0,)]

    def run(dy, saved, x, scale, *_):
        dy, saved, x = (t.contiguous(memory_format=layout) for t in (dy, saved, x))
        scale, dx, sums = scale.contiguous(), empty(), [torch.empty(size, dtype=dtype) for size in sizes]
        addresses = [
            t.data_ptr() if wanted else 0 for t, wanted in zip(sums, (scale_grad, noise_grad, bias_grad), strict=True)
        ]
        launch(
            shape, *options, dy.data_ptr(), saved.data_ptr(), x.data_ptr(), scale.data_ptr(), dx.data_ptr(), *addresses
        )
        return dx, *sums

    return run


SCALE = planned("cpp", plan_scale, _why_not)
DOT = planned("cpp", plan_dot, _why_not)
FORWARD = planned("cpp", plan_forward, _why_not)
GRAD = planned("cpp", plan_grad, _why_not)
