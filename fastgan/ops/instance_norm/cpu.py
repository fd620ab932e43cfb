"""instance_norm_act on the CPU: launches the kernels of fastgan._cpu, for float and double."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import planned
from fastgan.ops._memory_format import allocator, memory_format, view_ncs


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


def _shape(x: Tensor, layout: torch.memory_format):
    fast = layout is torch.channels_last
    return native.cpu().BiasActShape(*view_ncs(x), fast, CPP_DTYPES[x.dtype], torch.get_num_threads())


def plan_forward(x, alpha, epsilon):
    layout = memory_format(x)
    shape, launch, size, dtype = _shape(x, layout), native.cpu().instance_norm, tuple(x.shape[:2]), x.dtype
    empty = allocator(x.shape, dtype, x.device, layout)

    def run(x, *_):
        x, y = x.contiguous(memory_format=layout), empty()
        mean, scale = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)
        launch(shape, alpha, epsilon, x.data_ptr(), y.data_ptr(), mean.data_ptr(), scale.data_ptr())
        return y, mean, scale

    return run


def plan_grad(dy, x, mean, scale, alpha, epsilon):
    layout = memory_format(x)
    shape, launch = _shape(x, layout), native.cpu().instance_norm_grad
    empty = allocator(x.shape, x.dtype, x.device, layout)

    def run(dy, x, mean, scale, *_):
        dy, x, dx = dy.contiguous(memory_format=layout), x.contiguous(memory_format=layout), empty()
        mean, scale = mean.contiguous(), scale.contiguous()
        launch(shape, alpha, dy.data_ptr(), x.data_ptr(), mean.data_ptr(), scale.data_ptr(), dx.data_ptr())
        return dx

    return run


FORWARD = planned("cpp", plan_forward, _why_not)
GRAD = planned("cpp", plan_grad, _why_not)
