"""Convolutions on the CPU: oneDNN's, with the activation as its post-operation or as our C++ epilogue in place; matrix
products for few pixels (cpu_products.py); and our own kernel for input gradients with few channels (of first layers),
where oneDNN is slow.

Each function plan_* takes the arguments of a step and returns the function that runs it. Tensors whose values do not
exist when a stack is planned are meta tensors: only their shapes, dtypes and layouts matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import why_no_cpp
from fastgan.ops._library import planned
from fastgan.ops._memory_format import memory_format
from fastgan.ops.bias_act import cpu as bias_act_cpu
from fastgan.ops.conv import cpu_products as products
from fastgan.ops.conv import reference
from fastgan.ops.conv.shapes import dgrad_like, forward_like

#: The activations that oneDNN applies to its accumulator: our name → its name. Its relu would turn NaN into 0.
_POST_OPERATIONS = {"linear": "none", "leaky_relu": "leaky_relu"}
#: Outputs of fewer elements stay in the cache, where the activation as a call of its own is faster than PyTorch's
#: operation with post-operations, whose call costs more.
_SMALL = 1 << 15

Step = Callable[..., Any]


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


def _in_contiguous(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution of x runs in contiguous layout although x may be in channels_last.

    In channels_last oneDNN reorders a contiguous weight and its gradient in each call, which costs more than converting
    images that are smaller than the weight.
    """
    return weight.numel() > x.numel() and not reference.in_channels_last(weight, weight)


def _as_given(x: Tensor) -> Tensor:
    return x


def _convolve(x: Tensor, weight: Tensor, y: Tensor, options: Any) -> Step:
    """run(x, weight) → the convolution of x, like y in any layout."""
    stride, padding, dilation, groups = options
    if products.fits(products.pixels(y), weight.shape, groups):
        wide = reference.in_channels_last(weight, weight)
        return products.plan_conv(y, weight, stride, padding, dilation, wide)
    to_input = Tensor.contiguous if _in_contiguous(x, weight) else _as_given
    convolution, none = torch.convolution, [0, 0]
    return lambda x, weight: convolution(to_input(x), weight, None, stride, padding, dilation, False, none, groups)


def _transposed(dy: Tensor, weight: Tensor, dx: Tensor, options: Any) -> Step:
    """run(dy, weight) → the input gradient, like dx in any layout."""
    stride, padding, dilation, groups = options
    if products.fits(products.pixels(dy), weight.shape, groups):
        wide = reference.in_channels_last(weight, weight)
        return products.plan_dgrad(dx, weight, stride, padding, dilation, wide)
    extra = reference.output_padding(dy.shape, weight, list(dx.shape[2:]), stride, padding, dilation)
    to_input = Tensor.contiguous if _in_contiguous(dx, weight) else _as_given
    convolution = torch.convolution
    return lambda dy, weight: convolution(to_input(dy), weight, None, stride, padding, dilation, True, extra, groups)


def plan_conv_bias_act(x, weight, bias, stride, padding, dilation, groups, act, alpha, gain, clamp):
    y = forward_like(x, weight, stride, padding, dilation, groups)
    layout = memory_format(y)
    to_input = Tensor.contiguous if _in_contiguous(x, weight) else _as_given
    convolution, none = torch.convolution, [0, 0]
    product = products.fits(products.pixels(y), weight.shape, groups)
    if product or not _post_operation(x, act, alpha, gain, clamp):
        convolve = _convolve(x, weight, y, (stride, padding, dilation, groups))
        epilogue = bias_act_cpu.in_place(y, bias, act, alpha, gain, clamp)

        def run(x, weight, bias, *_):
            y = convolve(x, weight).contiguous(memory_format=layout)
            epilogue(y, bias)
            return y

    elif y.numel() < _SMALL:
        leaky_relu_, linear = torch._C._nn.leaky_relu_, act == "linear"

        def run(x, weight, bias, *_):
            y = convolution(to_input(x), weight, bias, stride, padding, dilation, False, none, groups)
            y = y.contiguous(memory_format=layout)
            return y if linear else leaky_relu_(y, alpha)

    else:
        pointwise = torch.ops.mkldnn._convolution_pointwise.default
        name, slopes = _POST_OPERATIONS[act], [alpha] if act == "leaky_relu" else []

        def run(x, weight, bias, *_):
            # This operation reads the bias as if it were dense.
            bias = None if bias is None else bias.contiguous()
            y = pointwise(to_input(x), weight, bias, padding, stride, dilation, groups, name, slopes, "")
            return y.contiguous(memory_format=layout)

    return run


def plan_conv(x, weight, stride, padding, dilation, groups):
    y = forward_like(x, weight, stride, padding, dilation, groups)
    layout, convolve = memory_format(y), _convolve(x, weight, y, (stride, padding, dilation, groups))

    def run(x, weight, *_):
        return convolve(x, weight).contiguous(memory_format=layout)

    return run


def plan_conv_slope(x, weight, saved, stride, padding, dilation, groups, act, alpha, gain, clamp):
    layout = memory_format(saved)
    slope = bias_act_cpu.grad_in_place(saved, layout, False, act, alpha, gain, clamp)
    convolve = _convolve(x, weight, saved, (stride, padding, dilation, groups))

    def run(x, weight, saved, *_):
        z = convolve(x, weight).contiguous(memory_format=layout)
        slope(z, saved)
        return z

    return run


def plan_conv_dgrad(dy, weight, size, stride, padding, dilation, groups):
    dx = dgrad_like(dy, weight, size, stride, padding, dilation, groups)
    layout = memory_format(dx)
    if _is_thin(dy, weight, groups):
        return _plan_thin(dx, dy, weight.shape[0], list(weight.shape[2:]), stride, padding, dilation, layout)
    convolve = _transposed(dy, weight, dx, (stride, padding, dilation, groups))

    def run(dy, weight, *_):
        return convolve(dy, weight).contiguous(memory_format=layout)

    return run


def _is_thin(dy: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether our own kernel computes the input gradient."""
    kernels = native.cpu()
    thin = weight.shape[1] <= kernels.THIN and weight.shape[0] % kernels.LANES == 0 and groups == 1
    return thin and dy.dtype == torch.float32 and dy.numel() > 0 and reference.in_channels_last(dy, weight)


def _plan_thin(dx, dy, outputs, kernel, stride, padding, dilation, layout) -> Step:
    sizes = list(dx.shape), (outputs, *dy.shape[2:]), kernel, stride, padding, dilation, torch.get_num_threads()
    launch = native.cpu().conv_thin_grad
    shape, strides = dx.shape, dx.stride()

    def run(dy, weight, *_):
        dy, weight = dy.contiguous(memory_format=torch.channels_last), weight.permute(2, 3, 1, 0).contiguous()
        dx = torch.empty_strided(shape, strides, dtype=torch.float32)
        launch(*sizes, dy.data_ptr(), weight.data_ptr(), dx.data_ptr())
        return dx

    return run


def plan_conv_dgrad_act(dy, weight, saved, options, act, bias_grad):
    """run(dy, weight, saved) → conv_dgrad_act with these options of the convolution and its activation."""
    stride, padding, dilation, groups = options
    size = list(saved.shape[2:])
    layout = memory_format(dgrad_like(dy, weight, size, stride, padding, dilation, groups))
    slope = bias_act_cpu.grad_in_place(saved, layout, bias_grad, *act)
    convolve = _transposed(dy, weight, saved, options)

    def run(dy, weight, saved, *_):
        dx = convolve(dy, weight).contiguous(memory_format=layout)
        return dx, slope(dx, saved)

    return run


def plan_conv_wgrad(dy, x, kernel, stride, padding, dilation, groups, channels_last):
    shape = (dy.shape[1], x.shape[1] // groups, *kernel)
    if products.fits(products.pixels(dy), shape, groups, products.FEW_OF_GRADIENT):
        product = products.plan_wgrad(dy, x, kernel, stride, padding, dilation, channels_last)
        return lambda dy, x, *_: product(dy, x)
    layout = reference.weight_layout(channels_last)
    # Given channels_last images, oneDNN computes the weight gradient in channels_last. Converting the images is cheaper
    # than converting a gradient that is larger than they are, except where both are small.
    size = torch.Size(shape).numel()
    convert = not channels_last and size > max(x.numel(), _SMALL)
    like_layout = torch.contiguous_format if convert else reference.activation_layout(dy, x)
    strides = torch.empty(shape, device="meta", memory_format=like_layout).stride()
    backward, none, mask = torch.ops.aten.convolution_backward.default, [0, 0], [False, True, False]
    dtype = dy.dtype

    def run(dy, x, *_):
        if convert:
            dy, x = dy.contiguous(), x.contiguous()
        like = torch.empty_strided(shape, strides, dtype=dtype)
        dw = backward(dy, x, like, None, stride, padding, dilation, False, none, groups, mask)[1]
        return dw.contiguous(memory_format=layout)

    return run


def plan_conv_backward(dy, x, weight, stride, padding, dilation, groups, weight_grad, input_grad):
    """run(dy, x, weight) → (dx or None, dw or None)."""
    wide = reference.in_channels_last(weight, weight)
    dgrad = wgrad = None
    if input_grad:
        size = list(x.shape[2:])
        # Where the layouts differ, PyTorch's operation converts more than the two that are made for it do.
        alike = wide == (reference.activation_layout(dy, x) is torch.channels_last)
        together = alike or weight.numel() > x.numel() or max(x.numel(), dy.numel()) < _SMALL
        together = together and not products.fits(products.pixels(dy), weight.shape, groups, products.FEW_OF_GRADIENT)
        if weight_grad and together and not _is_thin(dy, weight, groups):
            return _plan_both(dy, x, weight, size, stride, padding, dilation, groups)
        dgrad = plan_conv_dgrad(dy, weight, size, stride, padding, dilation, groups)
    if weight_grad:
        wgrad = plan_conv_wgrad(dy, x, list(weight.shape[2:]), stride, padding, dilation, groups, wide)

    def run(dy, x, weight, *_):
        return None if dgrad is None else dgrad(dy, weight), None if wgrad is None else wgrad(dy, x)

    return run


def _plan_both(dy, x, weight, size, stride, padding, dilation, groups) -> Step:
    """Both gradients in one call of PyTorch's operation, which reorders dy and the weight once for both and takes some
    microseconds."""
    to_input = Tensor.contiguous if _in_contiguous(x, weight) else _as_given
    layout = memory_format(dgrad_like(dy, weight, size, stride, padding, dilation, groups))
    weight_layout = reference.weight_layout(reference.in_channels_last(weight, weight))
    backward, none, mask = torch.ops.aten.convolution_backward.default, [0, 0], [True, True, False]

    def run(dy, x, weight, *_):
        dx, dw, _ = backward(
            to_input(dy), to_input(x), weight, None, stride, padding, dilation, False, none, groups, mask
        )
        return dx.contiguous(memory_format=layout), dw.contiguous(memory_format=weight_layout)

    return run


def _plan_conv_backward(dy, x, weight, stride, padding, dilation, groups):
    return plan_conv_backward(dy, x, weight, stride, padding, dilation, groups, True, True)


def _plan_conv_dgrad_backward(ddx, dy, weight, stride, padding, dilation, groups):
    layout = memory_format(forward_like(ddx, weight, stride, padding, dilation, groups))
    weight_layout = reference.weight_layout(reference.in_channels_last(weight, weight))
    if products.fits(products.pixels(dy), weight.shape, groups, products.FEW_OF_GRADIENT):
        wide = reference.in_channels_last(weight, weight)
        wgrad = products.plan_wgrad(dy, ddx, list(weight.shape[2:]), stride, padding, dilation, wide)
        convolve = _convolve(ddx, weight, dy, (stride, padding, dilation, groups))
        return lambda ddx, dy, weight, *_: (convolve(ddx, weight).contiguous(memory_format=layout), wgrad(dy, ddx))
    extra = reference.output_padding(dy.shape, weight, list(ddx.shape[2:]), stride, padding, dilation)
    backward, mask = torch.ops.aten.convolution_backward.default, [True, True, False]

    def run(ddx, dy, weight, *_):
        ddy, dw, _ = backward(ddx, dy, weight, None, stride, padding, dilation, True, extra, groups, mask)
        return ddy.contiguous(memory_format=layout), dw.contiguous(memory_format=weight_layout)

    return run


CONV = planned("cpp", plan_conv, _why_not)
CONV_DGRAD_BACKWARD = planned("cpp", _plan_conv_dgrad_backward, _why_not)
CONV_BACKWARD = planned("cpp", _plan_conv_backward, _why_not)
CONV_DGRAD = planned("cpp", plan_conv_dgrad, _why_not)
CONV_WGRAD = planned("cpp", plan_conv_wgrad, _why_not)
CONV_BIAS_ACT = planned("cpp", plan_conv_bias_act, _why_not)
