"""The layers and activations of torch.nn that fastgan's ops can run, and the conditions for each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import type_before_parametrizations

from fastgan.nn.fusion.first_order import first_order
from fastgan.nn.plain_tensor import is_plain_tensor
from fastgan.nn.spectral import TorchHook
from fastgan.ops import (
    ACTIVATIONS,
    _backend,
    bias_act,
    conv1d,
    conv2d,
    conv2d_bias_act,
    conv_transpose1d,
    conv_transpose2d,
    upfirdn2d,
)
from fastgan.ops._eager import is_eager
from fastgan.ops._launch import why_no_cpp
from fastgan.ops.conv.cpu_products import FEW, FEW_OF_GRADIENT, fits
from fastgan.ops.conv.register import pair
from fastgan.ops.conv.shapes import output_shape
from fastgan.ops.upfirdn2d.register import MOST_TAPS

#: A class of modules. Not type[nn.Module], which mypy treats as unhashable, because nn.Module defines __hash__.
ModuleClass = Any


def original_class(module: nn.Module) -> ModuleClass:
    """The class that a module had before parametrization and before fuse."""
    kind = type_before_parametrizations(module)
    return getattr(kind, "_fastgan_original", kind)


def has_no_observers(module: nn.Module) -> bool:
    """Whether only the caller gets its results: it has no hooks and no forward or compiled call of its own."""
    return not (
        module._forward_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or torch_module._has_any_global_hook()
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
    )


#: The older spectral and weight norms of PyTorch: pre-hooks that compute the weight and set it as an attribute.
_WEIGHT_HOOKS = (TorchHook, sys.modules["torch.nn.utils.weight_norm"].WeightNorm)


def weight_hooks(module: nn.Module) -> list[Any]:
    """The pre-hooks that compute weights of a module."""
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _WEIGHT_HOOKS)]


def bare(module: nn.Module) -> bool:
    """Whether calling a module runs only its forward, and perhaps pre-hooks that `prepare` can run."""
    return has_no_observers(module) and all(
        isinstance(hook, _WEIGHT_HOOKS) for hook in module._forward_pre_hooks.values()
    )


def prepare(layer: nn.Module) -> None:
    """Run the pre-hooks of a bare layer, which compute its weight."""
    for hook in layer._forward_pre_hooks.values():
        hook(layer, ())


# --- activations -----------------------------------------------------------------------------------------------------


class Act(NamedTuple):
    """An activation of fastgan's ops, and whether PyTorch's would overwrite its input. gain, clamp: after it."""

    name: str
    alpha: float = 0.0
    inplace: bool = False
    gain: float = 1.0
    clamp: float | None = None


LINEAR = Act("linear")


def leaky_relu(negative_slope: Any = 0.01, inplace: Any = False) -> Act | None:
    """None for a negative slope: ours reads the side of the kink from the sign of its output."""
    if isinstance(negative_slope, int | float) and negative_slope >= 0:
        return Act("leaky_relu", negative_slope, bool(inplace))
    return None


def elu(alpha: Any = 1.0, inplace: Any = False) -> Act | None:
    """None for a negative alpha, for the same reason."""
    return Act("elu", alpha, bool(inplace)) if isinstance(alpha, int | float) and alpha >= 0 else None


#: Reads the activation from a module, with its current attributes.
ACTS: dict[type[nn.Module], Callable[[Any], Act | None]] = {
    nn.LeakyReLU: lambda module: leaky_relu(module.negative_slope, module.inplace),
    nn.ReLU: lambda module: Act("relu", inplace=module.inplace),
    nn.SiLU: lambda module: Act("silu", inplace=module.inplace),
    nn.ELU: lambda module: elu(module.alpha, module.inplace),
    nn.Tanh: lambda module: Act("tanh"),
    nn.Sigmoid: lambda module: Act("sigmoid"),
}


def activation_of(module: nn.Module) -> Act | None:
    """The activation of a module, fused or not; None for any other module."""
    read = ACTS.get(original_class(module))
    return None if read is None else read(module)


def activation_takes(x: Any) -> bool:
    """Whether our activations run on x."""
    return not first_order(x) and is_plain_tensor(x) and x.dim() >= 2


def activate(x: Tensor, act: Act) -> Tensor:
    """act(x), out of place."""
    return bias_act(x, None, act.name, alpha=act.alpha)


def overwrite(x: Tensor, act: Act) -> Tensor | None:
    """act(x) in place of x, whoever refers to x; None where PyTorch must do it.

    Our op runs out of place. The tensor object x then exchanges its contents with the result, so that all references
    to the object get the result, as after PyTorch's activation in place. That needs an x whose memory nothing else
    shares: no views, and no other op that saved it for its backward pass.
    """
    if not x.requires_grad or x.is_leaf or not torch.is_grad_enabled() or ACTIVATIONS[act.name].saves == "input":
        return None  # without a backward pass PyTorch's is as good, and needs no second tensor
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or type(x) is not Tensor:
        return x.copy_(activate(x, act))  # in a graph without references to objects
    if x._is_view() or x.retains_grad or x._backward_hooks:
        return None
    # The storage is counted once more for the object that is asked.
    shared = torch._C._storage_Use_Count(x.untyped_storage()._cdata) > 2
    if shared or x._use_count() > 1:  # type: ignore[attr-defined]
        return None
    torch._C._swap_tensor_impl(x, activate(x, act))
    return x


# --- convolutions and linear layers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerType:
    """A type of torch.nn's layers, and how fastgan's ops run it."""

    label: str
    #: The dimensions that x must have.
    dims: int
    #: (layer, x, act) → act(layer(x)). Reads the weight once.
    block: Callable[[Any, Tensor, Act], Tensor]

    def takes(self, x: Any) -> bool:
        """Whether `block` should run on x."""
        return not first_order(x) and self.supports(x)

    def supports(self, x: Any) -> bool:
        """Whether `block` may run on x."""
        if not is_plain_tensor(x) or x.dim() != self.dims:
            return False
        # Autocast does not cast double, fastgan's ops do.
        return x.dtype is not torch.float64 or not torch.is_autocast_enabled(x.device.type)


def pads_first(layer: Any) -> bool:
    """Whether a convolution pads its input before it runs: our ops pad with zeros alone, equally on both sides."""
    return isinstance(layer, nn.modules.conv._ConvNd) and (
        layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    )


def runs_as_product(kind: LayerType, layer: Any, x: Any) -> bool:
    """Whether a convolution of few pixels with a large weight runs on our op also where `takes` says no: as a matrix
    product, which is faster in every run on a CPU (fastgan/ops/conv/cpu_products.py)."""
    if type(x) is not Tensor or not x.is_cpu or x.dim() != 4 or x.dtype != torch.float32 or pads_first(layer):
        return False
    if not is_eager() or torch.is_autocast_enabled("cpu") or _backend.forced or why_no_cpp(x):
        return False
    # Not of the weight, which a norm computes each time that it is read.
    channels = (layer.in_channels, layer.out_channels) if kind is CONV_TRANSPOSE2D else (
        layer.out_channels, layer.in_channels
    )  # fmt: skip
    weight = (*channels, *layer.kernel_size)
    shape = x.shape if kind is CONV_TRANSPOSE2D else output_shape(
        x.shape, weight, layer.stride, layer.padding, layer.dilation
    )  # fmt: skip
    most = FEW_OF_GRADIENT if torch.is_grad_enabled() else FEW
    return fits(shape[0] * shape[2] * shape[3], weight, layer.groups, most)


def bias_for(layer: Any, x: Tensor) -> Tensor | None:
    """The layer's bias in the dtype of the layer's output, or in float32."""
    bias = layer.bias
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    # Under autocast the bias may be of the other half type.
    return bias if bias is None or bias.dtype in (dtype, torch.float32) else bias.to(dtype)


def _convolved(convolve: Callable[..., Tensor], layer: Any, x: Tensor, **more: Any) -> Tensor:
    weight, padding = layer.weight, layer.padding
    if pads_first(layer):
        x, padding = _padded(layer, x, weight)
    return convolve(
        x, weight, stride=layer.stride, padding=padding, dilation=layer.dilation, groups=layer.groups, **more
    )


def _padded(layer: Any, x: Tensor, weight: Tensor) -> tuple[Tensor, Any]:
    """The padded input of a convolution, and the padding that is left to do."""
    if layer.padding_mode != "zeros":
        return F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode), 0
    if layer.padding == "valid":
        return x, 0
    # "same": where the number is odd, PyTorch pads one more at the end.
    both = [d * (k - 1) for d, k in zip(layer.dilation, weight.shape[2:], strict=True)]
    if any(total % 2 for total in both):
        x = F.pad(x, [side for total in reversed(both) for side in (0, total % 2)])
    return x, tuple(total // 2 for total in both)


def _biased(z: Tensor, bias: Tensor | None, act: Act) -> Tensor:
    if bias is None and act.name == "linear":
        return z
    return bias_act(z, bias, act.name, alpha=act.alpha, gain=act.gain, clamp=act.clamp)


def _conv1d(layer: Any, x: Tensor, act: Act) -> Tensor:
    return _biased(_convolved(conv1d, layer, x), bias_for(layer, x), act)


def low_pass_filter(layer: Any, x: Tensor) -> Tensor | None:
    """The filter [kh, kw] of a convolution of each channel by itself with one constant filter; None for any other.

    Libraries compute these far below their usual speed, and StyleGAN2's and R3GAN's public code resamples with them:
    images [N·C, 1, H, W] with a weight [1, 1, kh, kw], or depthwise with an expanded one.
    """
    weight = layer.weight
    if weight.dim() != 4 or weight.requires_grad or layer.bias is not None or pads_first(layer):
        return None
    one = weight.shape[0] == 1 or weight.stride(0) == 0  # other weights may differ from channel to channel
    if not one or weight.shape[1] != 1 or not layer.groups == x.shape[1] == weight.shape[0]:
        return None
    if torch.is_autocast_enabled(x.device.type):
        return None
    dilated = layer.dilation not in (1, (1, 1), [1, 1])
    return None if dilated or weight[0].numel() > MOST_TAPS or weight.dtype != x.dtype else weight[0, 0]


def _conv2d(layer: Any, x: Tensor, act: Act) -> Tensor:
    bias = bias_for(layer, x)
    if bias is None and act.name == "linear":
        filter = low_pass_filter(layer, x)
        if filter is not None:
            top, left = pair(layer.padding, "padding", 0)
            return upfirdn2d(x, filter, 1, pair(layer.stride, "stride", 1), (top, top, left, left), flip=True)
        return _convolved(conv2d, layer, x)
    options = {"act": act.name, "alpha": act.alpha, "gain": act.gain, "clamp": act.clamp}
    return _convolved(conv2d_bias_act, layer, x, bias=bias, **options)


def _conv_transpose1d(layer: Any, x: Tensor, act: Act) -> Tensor:
    return _biased(_convolved(conv_transpose1d, layer, x, output_padding=layer.output_padding), bias_for(layer, x), act)


def _conv_transpose2d(layer: Any, x: Tensor, act: Act) -> Tensor:
    filter = low_pass_filter(layer, x) if act.name == "linear" else None
    if filter is not None:
        stride, padding = pair(layer.stride, "stride", 1), pair(layer.padding, "padding", 0)
        extra = pair(layer.output_padding, "output_padding", 0)
        pads = []
        for taps, step, cut, more in zip(filter.shape, stride, padding, extra, strict=True):
            pads += [taps - 1 - cut, taps - step - cut + more]
        if all(more < step for more, step in zip(extra, stride, strict=True)):  # PyTorch refuses others
            return upfirdn2d(x, filter, stride, 1, pads)
    return _biased(_convolved(conv_transpose2d, layer, x, output_padding=layer.output_padding), bias_for(layer, x), act)


def _linear(layer: Any, x: Tensor, act: Act) -> Tensor:
    return _biased(F.linear(x, layer.weight), bias_for(layer, x), act)


CONV1D = LayerType("conv", 3, _conv1d)
CONV2D = LayerType("conv", 4, _conv2d)
CONV_TRANSPOSE1D = LayerType("conv", 3, _conv_transpose1d)
CONV_TRANSPOSE2D = LayerType("conv", 4, _conv_transpose2d)
LINEAR_LAYER = LayerType("linear", 2, _linear)
LAYERS: dict[type[nn.Module], LayerType] = {
    nn.Conv1d: CONV1D,
    nn.Conv2d: CONV2D,
    nn.ConvTranspose1d: CONV_TRANSPOSE1D,
    nn.ConvTranspose2d: CONV_TRANSPOSE2D,
    nn.Linear: LINEAR_LAYER,
}


class Called(NamedTuple):
    """A convolution or linear layer that is called as a function: what `LayerType.block` reads from a module."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    output_padding: Any = 0


def called_as(layer: Any) -> Called:
    """A layer of torch.nn as one that is called. Reads the weight."""
    if isinstance(layer, nn.Linear):
        return Called(layer.weight, layer.bias)
    options = layer.stride, layer.padding, layer.dilation, layer.groups, layer.output_padding
    return Called(layer.weight, layer.bias, *options)


def _called(input: Tensor, weight: Tensor, bias: Any = None, *options: Any, **named: Any) -> tuple[Tensor, Called]:
    return input, Called(weight, bias, *options, **named)


def _called_transposed(
    input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> tuple[Tensor, Called]:  # fmt: skip
    return input, Called(weight, bias, stride, padding, dilation, groups, output_padding)


#: PyTorch's functions for these layers: function → (its arguments as (x, Called), its type).
LAYER_FUNCTIONS: dict[Callable[..., Any], tuple[Callable[..., tuple[Tensor, Called]], LayerType]] = {
    F.conv1d: (_called, CONV1D),
    F.conv2d: (_called, CONV2D),
    F.conv_transpose1d: (_called_transposed, CONV_TRANSPOSE1D),
    F.conv_transpose2d: (_called_transposed, CONV_TRANSPOSE2D),
    F.linear: (_called, LINEAR_LAYER),
}


def called(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Called, LayerType] | None:
    """(x, layer, type) of a call of one of LAYER_FUNCTIONS that our ops take; None for any other."""
    # Compared by identity, which Dynamo can trace.
    found = next((entry for known, entry in LAYER_FUNCTIONS.items() if function is known), None)
    if found is None:
        return None
    read, kind = found
    try:
        x, layer = read(*args, **kwargs)
    except TypeError:  # PyTorch's function names the argument
        return None
    good = is_plain_tensor(layer.weight) and (layer.bias is None or is_plain_tensor(layer.bias))
    sizes = (layer.stride, layer.padding, layer.dilation, layer.output_padding)
    good = good and all(isinstance(n, int) or (isinstance(n, tuple | list) and len(n) == kind.dims - 2) for n in sizes)
    if not good or not kind.supports(x):
        return None
    # Filters are faster on our op in every run.
    runs = not first_order(x) or (kind in (CONV2D, CONV_TRANSPOSE2D) and low_pass_filter(layer, x) is not None)
    return (x, layer, kind) if runs else None


#: Other modules whose result is a new tensor that nothing else refers to, not even their own backward pass, so that an
#: activation in place after them may run out of place.
_FRESH = {
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Conv3d, nn.ConvTranspose3d,
}  # fmt: skip


#: Users' subclasses of these layers → their types, so that each is looked at once.
_SUBCLASSES: dict[ModuleClass, LayerType | None] = {}


def layer_type(module: nn.Module) -> LayerType | None:
    """The type of a convolution or linear layer, fused or not, or of a user's that has the same forward; else None."""
    kind = original_class(module)
    found = LAYERS.get(kind)
    if found is not None or kind.__module__.startswith("torch."):
        return found
    if kind in _SUBCLASSES:
        return _SUBCLASSES[kind]
    found = next((one for plain, one in LAYERS.items() if has_forward_of(kind, plain)), None)
    if not torch.compiler.is_compiling():
        _SUBCLASSES[kind] = found
    return found


def has_forward_of(kind: ModuleClass, plain: type[nn.Module]) -> bool:
    """Whether a class inherits the forward of one of torch.nn's unchanged."""
    # The methods that the forward of torch.nn's convolutions calls: a class that overrides one has another forward.
    methods = ("forward", "_conv_forward", "_output_padding")
    return issubclass(kind, plain) and all(getattr(kind, name, None) is getattr(plain, name, None) for name in methods)


def returns_fresh(module: nn.Module) -> bool:
    """Whether only the caller refers to what a module returns."""
    fresh = original_class(module) in _FRESH or layer_type(module) is not None
    return fresh and has_no_observers(module)
