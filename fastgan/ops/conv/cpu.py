"""Convolutions on the CPU: oneDNN's, with the activation as its post-operation where oneDNN has it, else with our C++
epilogue in place; and our own kernel for input gradients with few channels (of first layers), where oneDNN is slow."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import why_no_cpp
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import dense, memory_format
from fastgan.ops.bias_act import cpu as bias_act_cpu
from fastgan.ops.conv import reference, reference_stack

#: The activations that oneDNN applies to its accumulator: our name → its name. Its relu would turn NaN into 0.
_POST_OPERATIONS = {"linear": "none", "leaky_relu": "leaky_relu"}


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


def _post_operation(x: Tensor, act: str, alpha: float, gain: float, clamp: float | None) -> bool:
    return bool(
        x.dtype == torch.float32
        and x.numel() > 0
        and act in _POST_OPERATIONS
        and gain == 1
        and (act == "linear" or alpha > 0)
        and clamp is None
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def conv_bias_act(x, weight, bias, stride, padding, dilation, groups, act, alpha, gain, clamp):
    if _post_operation(x, act, alpha, gain, clamp):
        slopes = [alpha] if act == "leaky_relu" else []
        y = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, padding, stride, dilation, groups, _POST_OPERATIONS[act], slopes, ""
        )
        return dense(y, reference.activation_layout(x, weight))
    y = reference.conv(x, weight, stride, padding, dilation, groups)
    bias_act_cpu.bias_act_(y, bias, act, alpha, gain, clamp)
    return y


def conv_stack(x, *rest):
    return reference_stack.each_block(conv_bias_act, x, *rest)


def conv_dgrad_act(dy, weight, saved, stride, padding, dilation, groups, act, alpha, gain, clamp, bias_grad):
    dx = reference.conv_dgrad(dy, weight, list(saved.shape[2:]), stride, padding, dilation, groups)
    layout = reference.activation_layout(dy, weight)
    db = bias_act_cpu.bias_act_grad_(dx, dense(saved, layout), layout, act, alpha, gain, clamp, bias_grad)
    return dx, db


def conv_dgrad(dy, weight, size, stride, padding, dilation, groups):
    layout = reference.activation_layout(dy, weight)
    kernels = native.cpu()
    outputs, channels, *kernel = weight.shape
    thin = channels <= kernels.THIN and outputs % kernels.LANES == 0 and groups == 1
    if not thin or dy.dtype != torch.float32 or layout is not torch.channels_last or not dy.numel():
        return reference.conv_dgrad(dy, weight, size, stride, padding, dilation, groups)
    dy, weight = dense(dy, layout), weight.permute(2, 3, 1, 0).contiguous()
    shape = (dy.shape[0], channels, *size)
    # With one channel both layouts are the same memory, and the fake says contiguous.
    declared = layout if channels > 1 else torch.contiguous_format
    dx = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=declared)
    kernels.conv_thin_grad(
        shape, (outputs, *dy.shape[2:]), kernel, stride, padding, dilation, torch.get_num_threads(),
        dy.data_ptr(), weight.data_ptr(), dx.data_ptr(),
    )  # fmt: skip
    return dx


def conv_slope(x, weight, saved, stride, padding, dilation, groups, act, alpha, gain, clamp):
    z = reference.conv(x, weight, stride, padding, dilation, groups)
    layout = memory_format(saved)
    z = dense(z, layout)
    bias_act_cpu.bias_act_grad_(z, dense(saved, layout), layout, act, alpha, gain, clamp, False)
    return z


def conv_stack_dgrad(dy, *rest):
    return reference_stack.each_dgrad(bias_act_cpu.bias_act_grad, conv_dgrad_act, conv_dgrad, dy, *rest)


def conv_stack_tangent(x, *rest):
    return reference_stack.each_tangent(conv_slope, x, *rest)


def _why_not_wgrad(dys: list[Tensor], *_) -> str | None:
    return why_no_cpp(dys[0])


CONV = Kernel("cpp", reference.conv, _why_not)
CONV_DGRAD = Kernel("cpp", conv_dgrad, _why_not)
CONV_BIAS_ACT = Kernel("cpp", conv_bias_act, _why_not)
CONV_STACK = Kernel("cpp", conv_stack, _why_not)
CONV_STACK_DGRAD = Kernel("cpp", conv_stack_dgrad, _why_not)
CONV_STACK_TANGENT = Kernel("cpp", conv_stack_tangent, _why_not)
CONV_STACK_WGRAD = Kernel("cpp", reference_stack.conv_stack_wgrad, _why_not_wgrad)
