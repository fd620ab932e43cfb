"""Convolutions on a GPU: our Triton kernels or PyTorch's convolution, whichever was measured to be faster.

Our kernels take one group and activations in channels_last. Everything else is PyTorch's convolution followed by the
Triton kernels of bias_act, in place. FASTGAN_BACKEND=triton forces our kernels, and converts contiguous tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan.ops import _autotune, _backend
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import dense, memory_format
from fastgan.ops.bias_act import triton as epilogue
from fastgan.ops.conv import reference, reference_stack
from fastgan.ops.conv.triton_configs import (
    FLATTENED,
    INTERPRETED,
    Config,
    configs,
    gpu,
    padded_channels,
    wgrad_configs,
)
from fastgan.ops.conv.triton_launch import (
    backward,
    forward,
    forward_shape,
    pixels_of_phases,
    precision,
    steps_of_taps,
    wgrad,
)

# --- support ---------------------------------------------------------------------------------------------------------


def _forced() -> bool:
    return _backend.forced == "triton"


def _why_not_triton(x: Tensor, weight: Tensor, groups: int) -> str | None:
    """Why our kernels do not run, or None. x: the input activation; weight: the weight, or the other activation."""
    if groups != 1:
        return f"the Triton convolutions take one group, not {groups}"
    if x.is_cuda and not _forced() and reference.activation_layout(x, weight) is not torch.channels_last:
        return "the Triton convolutions read channels_last, and the tensors are contiguous"
    if math.prod(x.shape[1:]) >= 2**31:
        return "an image has 2^31 elements or more"
    return None


def _plain(groups_at: int) -> Callable[..., str | None]:
    """why_not of an op without epilogue."""

    def why_not(x: Tensor, *rest: Any) -> str | None:
        return epilogue.why_not(x) or _why_not_triton(x, rest[0], rest[groups_at - 1])

    return why_not


def _fused(groups_at: int) -> Callable[..., str | None]:
    """why_not of an op with an epilogue, which can follow PyTorch's convolution too."""
    plain = _plain(groups_at)

    def why_not(x: Tensor, *rest: Any) -> str | None:
        return plain(x, *rest) if _forced() else epilogue.why_not(x)

    return why_not


def _why_not_stack(groups_at: int) -> Callable[..., str | None]:
    """why_not of an op on a stack, whose first tensor is an activation and whose second argument are the weights."""

    def why_not(x: Tensor, weights: list[Tensor], *rest: Any) -> str | None:
        reason = epilogue.why_not(x)
        if reason or not _forced():
            return reason
        groups = rest[groups_at - 1]
        return next((r for w, g in zip(weights, groups, strict=True) if (r := _why_not_triton(x, w, g))), None)

    return why_not


# --- selection -------------------------------------------------------------------------------------------------------


def _run_fastest(name: str, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...], supported: bool,
                 candidates: Callable[[], tuple[Config, ...]], library: Callable[..., Any],
                 ours: Callable[..., Any]) -> Any:  # fmt: skip
    """The result of PyTorch's convolution or of our kernel with one of its configs, whichever is faster.

    tensors, options: what the selection depends on. library takes the tensors, ours the tensors and a config; neither
    may hold tensors, as they are kept. candidates: the configs.
    """
    x = tensors[0]
    assert x is not None
    if not supported:
        return library(*tensors)
    if not x.is_cuda:
        return ours(*tensors, INTERPRETED)
    if _forced():
        return ours(*tensors, candidates()[0])
    deterministic = torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    key = _autotune.selection_key(name, tensors, (*options, precision(x), *(("deterministic",) * deterministic)))

    def runs() -> dict[str, Callable[..., Any]]:
        found: dict[str, Callable[..., Any]] = {_autotune.LIBRARY: library}
        if not deterministic:  # cuDNN's own measurement may choose another algorithm in the next process
            found[_autotune.WARMED] = functools.partial(_with_benchmark, library)
        return found | {f"triton/{c}": functools.partial(_with_config, ours, c) for c in candidates()}

    return _autotune.fastest(x.device, key, runs, tensors)


def _with_config(ours: Callable[..., Any], config: Config, *tensors: Tensor | None) -> Any:
    return ours(*tensors, config)


def _with_benchmark(library: Callable[..., Any], *tensors: Tensor | None) -> Any:
    """The library's convolution with the algorithm that cuDNN itself measures to be the fastest."""
    before = torch._C._get_cudnn_benchmark()
    torch._C._set_cudnn_benchmark(True)
    try:
        return library(*tensors)
    finally:
        torch._C._set_cudnn_benchmark(before)


def _configs(x: Tensor, rows: int, outputs: int, taps: int, widest: int = 256) -> tuple[Config, ...]:
    """The candidates for a sum over the channels of x and taps."""
    channels = x.shape[1]
    few = channels < FLATTENED
    return configs(
        rows, outputs, channels * taps, x.dtype, _gpu(x),
        tf32=precision(x) == "tf32", few=few, pad=few and padded_channels(channels) != channels, widest=widest,
    )  # fmt: skip


def _gpu(x: Tensor) -> Any:
    return gpu(torch.cuda.current_device() if x.device.index is None else x.device.index)


_WITH_SLOPE = 128  # columns of a tile at most: the slope takes registers, of which wider tiles leave too few
_MOST_ROWS = 2**30  # our kernels count rows in 32 bits


def _supported(x: Tensor, weight: Tensor, groups: int, rows: int) -> bool:
    return rows < _MOST_ROWS and weight.numel() < 2**31 and _why_not_triton(x, weight, groups) is None


# --- the back-ends ---------------------------------------------------------------------------------------------------


def conv_bias_act(x, weight, bias, stride, padding, dilation, groups, act, alpha, gain, clamp):
    def library(x, weight, bias):
        y = reference.conv(x, weight, stride, padding, dilation, groups)
        epilogue.bias_act_(y, bias, act, alpha, gain, clamp)
        return y

    images, outputs, *size = forward_shape(x, weight, stride, padding, dilation)
    rows = images * math.prod(size)
    return _run_fastest(
        "conv_bias_act", (x, weight, bias), (stride, padding, dilation, act, alpha, gain, clamp),
        _supported(x, weight, groups, rows), lambda: _configs(x, rows, outputs, math.prod(weight.shape[2:])), library,
        lambda x, weight, bias, config:
            forward(x, weight, bias, stride, padding, dilation, act, alpha, gain, clamp, config),
    )  # fmt: skip


def conv_stack(x, *rest):
    return reference_stack.each_block(conv_bias_act, x, *rest)


def conv(x, weight, stride, padding, dilation, groups):
    images, outputs, *size = forward_shape(x, weight, stride, padding, dilation)
    rows = images * math.prod(size)
    return _run_fastest(
        "conv", (x, weight), (stride, padding, dilation), _supported(x, weight, groups, rows),
        lambda: _configs(x, rows, outputs, math.prod(weight.shape[2:])),
        lambda x, weight: reference.conv(x, weight, stride, padding, dilation, groups),
        lambda x, weight, config:
            forward(x, weight, None, stride, padding, dilation, "linear", 0.0, 1.0, None, config),
    )  # fmt: skip


def conv_slope(x, weight, saved, stride, padding, dilation, groups, act, alpha, gain, clamp):
    """conv(x, weight) times the slope of an activation, from its output `saved` [N, K, P, Q]: the tangent of a block.

    bias_act_grad(conv(x, weight), saved) in one launch where our kernel is the fastest, in saved's layout. For
    activations that save their output.
    """

    def library(x, weight, saved):
        layout = memory_format(saved)
        y = dense(reference.conv(x, weight, stride, padding, dilation, groups), layout)
        epilogue.bias_act_grad_(y, dense(saved, layout), layout, act, alpha, gain, clamp, False)
        return y

    images, outputs, *size = forward_shape(x, weight, stride, padding, dilation)
    rows = images * math.prod(size)
    return _run_fastest(
        "conv_slope", (x, weight, saved), (stride, padding, dilation, act, alpha, gain, clamp),
        _supported(x, weight, groups, rows),
        lambda: _configs(x, rows, outputs, math.prod(weight.shape[2:]), _WITH_SLOPE), library,
        lambda x, weight, saved, config:
            forward(x, weight, None, stride, padding, dilation, act, alpha, gain, clamp, config, saved),
    )  # fmt: skip


def _backward_configs(dy, weight, rows, stride, dilation):
    steps, _ = steps_of_taps(stride, dilation)
    taps = math.prod(max(1, weight.shape[2 + i] // steps[i]) for i in (0, 1))
    return _configs(dy, rows, weight.shape[1], taps, _WITH_SLOPE)


def conv_dgrad(dy, weight, size, stride, padding, dilation, groups):
    size = list(size)
    rows = math.prod(pixels_of_phases(dy, size, stride))
    return _run_fastest(
        "conv_dgrad", (dy, weight), (size, stride, padding, dilation), _supported(dy, weight, groups, rows),
        lambda: _backward_configs(dy, weight, rows, stride, dilation),
        lambda dy, weight: reference.conv_dgrad(dy, weight, size, stride, padding, dilation, groups),
        lambda dy, weight, config: backward(dy, weight, size, stride, padding, dilation, config)[0],
    )  # fmt: skip


def conv_dgrad_act(dy, weight, saved, stride, padding, dilation, groups, act, alpha, gain, clamp, bias_grad):
    size = list(saved.shape[2:])

    def library(dy, weight, saved):
        dx = reference.conv_dgrad(dy, weight, size, stride, padding, dilation, groups)
        layout = reference.activation_layout(dy, weight)
        return dx, epilogue.bias_act_grad_(dx, dense(saved, layout), layout, act, alpha, gain, clamp, bias_grad)

    def ours(dy, weight, saved, config):
        return backward(
            dy, weight, size, stride, padding, dilation, config, saved, (act, alpha, gain, clamp), bias_grad
        )

    rows = math.prod(pixels_of_phases(dy, size, stride))
    return _run_fastest(
        "conv_dgrad_act", (dy, weight, saved), (stride, padding, dilation, act, alpha, gain, clamp, bias_grad),
        _supported(dy, weight, groups, rows), lambda: _backward_configs(dy, weight, rows, stride, dilation), library,
        ours,
    )  # fmt: skip


def conv_wgrad(dy, x, kernel, stride, padding, dilation, groups, channels_last):
    kernel, rows = list(kernel), dy.shape[0] * math.prod(dy.shape[2:])

    def candidates():
        taps, tf32 = math.prod(kernel), precision(dy) == "tf32"
        return wgrad_configs(rows, dy.shape[1], x.shape[1], taps, dy.dtype, _gpu(dy), tf32=tf32)

    return _run_fastest(
        "conv_wgrad", (dy, x), (kernel, stride, padding, dilation, channels_last),
        _supported(x, dy, groups, rows) and math.prod(dy.shape[1:]) < 2**31, candidates,
        lambda dy, x: reference.conv_wgrad(dy, x, kernel, stride, padding, dilation, groups, channels_last),
        lambda dy, x, config: wgrad(dy, x, kernel, stride, padding, dilation, channels_last, config),
    )  # fmt: skip


def conv_stack_dgrad(dy, *rest):
    return reference_stack.each_dgrad(epilogue.bias_act_grad, conv_dgrad_act, conv_dgrad, dy, *rest)


def conv_stack_tangent(x, *rest):
    return reference_stack.each_tangent(conv_slope, x, *rest)


def conv_stack_wgrad(dys, *rest):
    return reference_stack.each_wgrad(conv_wgrad, dys, *rest)


def conv_stack_backward(dy, x, weights, outputs, *rest):
    return reference_stack.both_passes(conv_stack_dgrad, conv_stack_wgrad, dy, x, weights, outputs, *rest)


def _why_not_wgrad(dy: Tensor, x: Tensor, *rest: Any) -> str | None:
    return epilogue.why_not(dy) or _why_not_triton(x, dy, rest[4])


CONV = Kernel("triton", conv, _plain(groups_at=5))
CONV_DGRAD = Kernel("triton", conv_dgrad, _plain(groups_at=6))
CONV_WGRAD = Kernel("triton", conv_wgrad, _why_not_wgrad)
CONV_BIAS_ACT = Kernel("triton", conv_bias_act, _fused(groups_at=6))
CONV_STACK = Kernel("triton", conv_stack, _why_not_stack(groups_at=5))
CONV_STACK_DGRAD = Kernel("triton", conv_stack_dgrad, _why_not_stack(groups_at=6))
CONV_STACK_TANGENT = Kernel("triton", conv_stack_tangent, _why_not_stack(groups_at=5))
CONV_STACK_BACKWARD = Kernel("triton", conv_stack_backward, lambda dy, x, *rest: _why_not_stack(groups_at=5)(dy, *rest))
CONV_STACK_WGRAD = Kernel("triton", conv_stack_wgrad, lambda dys, *_: epilogue.why_not(dys[0]))
