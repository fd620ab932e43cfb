"""The public function of a chain of convolution blocks."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._eager import is_eager
from fastgan.ops.bias_act import ACTIVATIONS
from fastgan.ops.bias_act.register import check_options
from fastgan.ops.conv.reference import activation_layout, in_channels_last
from fastgan.ops.conv.register import cast, pair
from fastgan.ops.conv.shapes import output_shape
from fastgan.ops.conv.stack import conv_stack_op

#: Weights of fewer elements stay in the cache, where the layout matters less than the number of calls.
_SMALL = 1 << 15

#: Images of fewer elements, of all layers, are convolved as fast in contiguous layout.
_LARGE = 1 << 21


class ConvLayer(NamedTuple):
    """The weights and options of one block of a stack, as in `conv2d_bias_act`."""

    weight: Tensor
    bias: Tensor | None = None
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1


class StackOptions(NamedTuple):
    """The options of all layers of a stack, as its ops take them: two numbers a layer, and one in groups."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: list[int]


def stack_options(layers: Sequence[Any]) -> StackOptions:
    """The options of the layers, ConvLayers or nn.Conv2d. Raises ValueError naming the option."""
    stride, padding, dilation = [], [], []
    for layer in layers:
        stride += pair(layer.stride, "stride", 1)
        padding += pair(layer.padding, "padding", 0)
        dilation += pair(layer.dilation, "dilation", 1)
    return StackOptions(stride, padding, dilation, [layer.groups for layer in layers])


def conv2d_stack(
    x: Tensor,
    layers: Sequence[ConvLayer],
    act: str = "leaky_relu",
    *,
    alpha: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """A chain of `conv2d_bias_act` with one piecewise-linear activation: linear, relu or leaky_relu.

    x: [N, C, H, W] floating. layers: from the first to the last, all with a bias or all without. Equal to the blocks
    one by one, with less memory traffic: in the backward pass, the input gradient of a block applies the slope of the
    previous block's activation and sums its bias gradient in the same pass. Returns the output of the last block.

    Raises TypeError or ValueError naming the argument.
    """
    check_options(act, alpha, gain, clamp)
    if not ACTIVATIONS[act].piecewise_linear:
        raise bad("act", "a piecewise-linear activation: linear, relu, leaky_relu", repr(act))
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if not layers or len(biases) not in (0, len(layers)):
        raise bad(
            "layers", "at least one layer, and a bias for all or for none", [layer.bias is None for layer in layers]
        )
    if torch.is_autocast_enabled(x.device.type):
        weights = [cast(x, weight)[1] for weight in weights]
        x, _ = cast(x, weights[0])
    return run_planned_stack(x, weights, biases, stack_options(layers), act, alpha, gain, clamp)


def run_planned_stack(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    options: StackOptions,
    act: str,
    alpha: float,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """`conv2d_stack` of options that were checked, in the dtype of the tensors."""
    whole = x, weights, biases, options, act, alpha, gain, clamp
    if x.is_cpu and not in_channels_last(weights[0], weights[0]) and is_eager():
        shapes = tuple(weight.shape for weight in weights)
        i = _first_heavy(x.shape, shapes, *map(tuple, options[:3]))
        if i < len(weights):
            if i == 0:
                return _run(False, *whole)
            y = _run(True, *_part(whole, 0, i))
            return _run(False, *_part((y, *whole[1:]), i, len(weights)))
    return _run(True, *whole)


def _part(stack: Any, start: int, end: int) -> Any:
    """The arguments of a stack of some of the layers."""
    x, weights, biases, options, *act = stack
    stride, padding, dilation = (numbers[2 * start : 2 * end] for numbers in options[:3])
    own = StackOptions(stride, padding, dilation, options.groups[start:end])
    return x, weights[start:end], biases[start:end], own, *act


@functools.lru_cache(maxsize=4096)
def _first_heavy(shape: Any, weights: Any, stride: Any, padding: Any, dilation: Any) -> int:
    """The first layer from which on all weights are larger than the layers' inputs; their number if none is. 0 if all
    images are small."""
    first, largest = len(weights), 0
    if len(shape) != 4 or any(len(weight) != 4 for weight in weights):
        return first  # the op raises an error
    for i, weight in enumerate(weights):
        if weight.numel() <= max(math.prod(shape), _SMALL):
            first = len(weights)
        elif first == len(weights):
            first = i
        pairs = [numbers[2 * i : 2 * i + 2] for numbers in (stride, padding, dilation)]
        if first == len(weights):
            largest = max(largest, math.prod(shape))
        shape = output_shape(shape, weight, *pairs)
    return first if largest >= _LARGE else 0


def _run(
    may_convert: bool,
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    options: StackOptions,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """A stack as one op. may_convert: to channels_last."""
    # oneDNN and cuDNN convolve faster in channels_last: two small copies at the ends of the stack replace a conversion
    # in every pass. On a CPU not where weights are larger than images: in channels_last oneDNN reorders a contiguous
    # weight and its gradient in each call. Double, which is for checking gradients, stays as it is.
    outside = activation_layout(x, weights[0])
    # oneDNN 3 fails in channels_last where the strides of height and width differ: wrong values for images with one
    # channel whose output is one pixel wide, and a crash in the weight gradient of 1×1 kernels.
    even = not x.is_cpu or options.stride[::2] == options.stride[1::2]
    convert = may_convert and len(weights) > 1 and x.dtype != torch.float64 and x.dim() == 4 and even
    if convert:
        x = x.contiguous(memory_format=torch.channels_last)
    y = conv_stack_op(x, weights, biases, *options, act, alpha, gain, clamp, torch.is_grad_enabled())[-1]
    return y.contiguous(memory_format=outside) if convert else y
