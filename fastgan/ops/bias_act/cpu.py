"""bias_act on the CPU: launches the kernels of fastgan._cpu, for float and double."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import planned
from fastgan.ops._memory_format import allocator, memory_format, view_ncs
from fastgan.ops.bias_act.activations import ACTIVATIONS


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


def describe(
    x: Tensor, layout: torch.memory_format, act: str, alpha: float, gain: float, clamp: float | None
) -> tuple[Any, Any]:
    """Shape and options for the C++ kernels, of tensors like x in that layout."""
    kernels = native.cpu()
    fast = layout is torch.channels_last
    shape = kernels.BiasActShape(*view_ncs(x), fast, CPP_DTYPES[x.dtype], torch.get_num_threads())
    limit = math.inf if clamp is None else clamp
    return shape, kernels.BiasActOptions(ACTIVATIONS[act].code, alpha, gain, limit)


def in_place(y: Tensor, bias: Tensor | None, *options: Any) -> Callable[[Tensor, Tensor | None], None]:
    """bias_act(y, bias) in place of y, for dense tensors like this y (its values do not matter) and biases like this
    one. Nothing else may refer to them."""
    shape, described = describe(y, memory_format(y), *options)
    launch, dtype = native.cpu().bias_act, y.dtype

    def run(y: Tensor, bias: Tensor | None) -> None:
        address, bias = y.data_ptr(), _dense_bias(bias, dtype)
        launch(shape, described, address, _address(bias), address)

    return run


def grad_in_place(
    dy: Tensor, layout: torch.memory_format, bias_grad: bool, *options: Any
) -> Callable[[Tensor, Tensor], Tensor]:
    """run(dy, saved): bias_act_grad in place of dy, which nothing else may refer to; it returns db. dy is dense in that
    layout, and like this one (whose values do not matter)."""
    shape, described = describe(dy, layout, *options)
    launch, dtype, channels = native.cpu().bias_act_grad, dy.dtype, dy.shape[1] if bias_grad else 0

    def run(dy: Tensor, saved: Tensor) -> Tensor:
        saved = saved.contiguous(memory_format=layout)
        db = torch.empty(channels, dtype=dtype)
        address = dy.data_ptr()
        launch(shape, described, address, saved.data_ptr(), 0, address, db.data_ptr() if bias_grad else 0)
        return db

    return run


def _dense_bias(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype).contiguous()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def plan_bias_act(x, bias, *options):
    layout = memory_format(x)
    shape, described = describe(x, layout, *options)
    launch, empty = native.cpu().bias_act, allocator(x.shape, x.dtype, x.device, layout)

    def run(x, bias, *_):
        x, y = x.contiguous(memory_format=layout), empty()
        bias = _dense_bias(bias, x.dtype)
        launch(shape, described, x.data_ptr(), _address(bias), y.data_ptr())
        return y

    return run


def plan_bias_act_grad(dy, saved, bias, *rest):
    *options, bias_grad = rest
    layout = memory_format(saved)
    shape, described = describe(dy, layout, *options)
    launch, empty = native.cpu().bias_act_grad, allocator(dy.shape, dy.dtype, dy.device, layout)
    channels = dy.shape[1] if bias_grad else 0

    def run(dy, saved, bias, *_):
        dy, saved = dy.contiguous(memory_format=layout), saved.contiguous(memory_format=layout)
        dx, db = empty(), torch.empty(channels, dtype=dy.dtype)
        bias = _dense_bias(bias, dy.dtype)
        sum_address = db.data_ptr() if bias_grad else 0
        launch(shape, described, dy.data_ptr(), saved.data_ptr(), _address(bias), dx.data_ptr(), sum_address)
        return dx, db

    return run


def plan_bias_act_grad_grad(ddx, dy, saved, bias, *options):
    layout = memory_format(saved)
    shape, described = describe(dy, layout, *options)
    launch, empty = native.cpu().bias_act_grad_grad, allocator(dy.shape, dy.dtype, dy.device, layout)

    def run(ddx, dy, saved, bias, *_):
        ddx, dy, saved = (t.contiguous(memory_format=layout) for t in (ddx, dy, saved))
        ddy, dsaved = empty(), empty()
        bias = _dense_bias(bias, dy.dtype)
        launch(
            shape, described, ddx.data_ptr(), dy.data_ptr(), saved.data_ptr(), _address(bias),
            ddy.data_ptr(), dsaved.data_ptr(),
        )  # fmt: skip
        return ddy, dsaved

    return run


FORWARD = planned("cpp", plan_bias_act, _why_not)
GRAD = planned("cpp", plan_bias_act_grad, _why_not)
GRAD_GRAD = planned("cpp", plan_bias_act_grad_grad, _why_not)
