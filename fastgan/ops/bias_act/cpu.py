"""bias_act on the CPU: launches the kernels of fastgan._cpu, for float and double."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import dense, empty, memory_format, view_ncs
from fastgan.ops.bias_act.activations import ACTIVATIONS


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


def _describe(x: Tensor, layout: torch.memory_format, act: str, alpha: float, gain: float, clamp: float | None):
    kernels = native.cpu()
    shape = kernels.BiasActShape(
        *view_ncs(x), layout is torch.channels_last, CPP_DTYPES[x.dtype], torch.get_num_threads()
    )
    limit = math.inf if clamp is None else clamp
    return kernels, shape, kernels.BiasActOptions(ACTIVATIONS[act].code, alpha, gain, limit)


def _dense_bias(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype).contiguous()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def bias_act(x, bias, act, alpha, gain, clamp):
    layout = memory_format(x)
    x, bias, y = dense(x, layout), _dense_bias(bias, x.dtype), empty(x, layout)
    kernels, *described = _describe(x, layout, act, alpha, gain, clamp)
    kernels.bias_act(*described, x.data_ptr(), _address(bias), y.data_ptr())
    return y


def bias_act_(y, bias, act, alpha, gain, clamp):
    """bias_act in place of y, a dense tensor that nothing else refers to."""
    kernels, *described = _describe(y, memory_format(y), act, alpha, gain, clamp)
    bias = _dense_bias(bias, y.dtype)
    kernels.bias_act(*described, y.data_ptr(), _address(bias), y.data_ptr())


def bias_act_grad_(dy, saved, layout, act, alpha, gain, clamp, bias_grad):
    """bias_act_grad in place of dy, which nothing else refers to. dy and saved are dense in that layout. Returns db."""
    db = dy.new_empty(dy.shape[1] if bias_grad else 0)
    kernels, *described = _describe(dy, layout, act, alpha, gain, clamp)
    kernels.bias_act_grad(
        *described, dy.data_ptr(), saved.data_ptr(), 0, dy.data_ptr(), db.data_ptr() if bias_grad else 0
    )
    return db


def bias_act_grad(dy, saved, bias, act, alpha, gain, clamp, bias_grad):
    layout = memory_format(saved)
    dy, saved, bias, dx = dense(dy, layout), dense(saved, layout), _dense_bias(bias, dy.dtype), empty(dy, layout)
    db = dy.new_empty(dy.shape[1] if bias_grad else 0)
    kernels, *described = _describe(dy, layout, act, alpha, gain, clamp)
    kernels.bias_act_grad(
        *described, dy.data_ptr(), saved.data_ptr(), _address(bias), dx.data_ptr(), db.data_ptr() if bias_grad else 0
    )
    return dx, db


def bias_act_grad_grad(ddx, dy, saved, bias, act, alpha, gain, clamp):
    layout = memory_format(saved)
    ddx, dy, saved, bias = dense(ddx, layout), dense(dy, layout), dense(saved, layout), _dense_bias(bias, dy.dtype)
    ddy, dsaved = empty(dy, layout), empty(dy, layout)
    kernels, *described = _describe(dy, layout, act, alpha, gain, clamp)
    kernels.bias_act_grad_grad(
        *described, ddx.data_ptr(), dy.data_ptr(), saved.data_ptr(), _address(bias), ddy.data_ptr(), dsaved.data_ptr()
    )
    return ddy, dsaved


FORWARD = Kernel("cpp", bias_act, _why_not)
GRAD = Kernel("cpp", bias_act_grad, _why_not)
GRAD_GRAD = Kernel("cpp", bias_act_grad_grad, _why_not)
