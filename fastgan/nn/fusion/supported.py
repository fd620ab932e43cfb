"""The layers and activations of torch.nn that fastgan's ops can run, and the conditions for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import type_before_parametrizations

from fastgan.nn.plain_tensor import is_plain_tensor
from fastgan.nn.spectral import TorchHook
from fastgan.ops import bias_act, conv1d, conv2d, conv2d_bias_act, conv_transpose1d, conv_transpose2d

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


def bare(module: nn.Module) -> bool:
    """Whether calling a module runs only its forward, and perhaps pre-hooks that `prepare` can run."""
    return has_no_observers(module) and all(isinstance(hook, TorchHook) for hook in module._forward_pre_hooks.values())


def prepare(layer: nn.Module) -> None:
    """Run the pre-hooks of a bare layer: the older spectral norm is a hook that sets the weight."""
    for hook in layer._forward_pre_hooks.values():
        hook(layer, ())


# --- activations -----------------------------------------------------------------------------------------------------


class Act(NamedTuple):
    """An activation of fastgan's ops, and whether PyTorch's would overwrite its input."""

    name: str
    alpha: float = 0.0
    inplace: bool = False


LINEAR = Act("linear")


def leaky_relu(negative_slope: Any = 0.01, inplace: Any = False) -> Act | None:
    """None for a negative slope: ours reads the side of the kink from the sign of its output."""
    if isinstance(negative_slope, int | float) and negative_slope >= 0:
        return Act("leaky_relu", negative_slope, bool(inplace))
    return None


#: Reads the activation from a module, with its current attributes.
ACTS: dict[type[nn.Module], Callable[[Any], Act | None]] = {
    nn.LeakyReLU: lambda module: leaky_relu(module.negative_slope, module.inplace),
    nn.ReLU: lambda module: Act("relu", inplace=module.inplace),
    nn.SiLU: lambda module: Act("silu", inplace=module.inplace),
    nn.Tanh: lambda module: Act("tanh"),
    nn.Sigmoid: lambda module: Act("sigmoid"),
}


def activation_of(module: nn.Module) -> Act | None:
    """The activation of a module, fused or not; None for any other module."""
    read = ACTS.get(original_class(module))
    return None if read is None else read(module)


def activation_takes(x: Any) -> bool:
    """Whether our activations run on x."""
    return is_plain_tensor(x) and x.dim() >= 2


def activate(x: Tensor, act: Act) -> Tensor:
    """act(x), out of place."""
    return bias_act(x, None, act.name, alpha=act.alpha)


# --- convolutions and linear layers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerType:
    """A type of torch.nn's layers, and how fastgan's ops run it."""

    label: str
    #: The dimensions that x must have.
    dims: int
    #: (layer, x, act) → act(layer(x)). Reads the weight once, because reading a spectral norm's weight iterates it.
    block: Callable[[Any, Tensor, Act], Tensor]

    def takes(self, layer: Any, x: Any) -> bool:
        """Whether `block` may run. Does not read the weight."""
        if not is_plain_tensor(x) or x.dim() != self.dims or why_not(layer):
            return False
        # Autocast does not cast double, fastgan's ops do.
        return x.dtype is not torch.float64 or not torch.is_autocast_enabled(x.device.type)


def why_not(layer: Any) -> str:
    """The reason why PyTorch must run a layer, or ""."""
    if isinstance(layer, nn.Linear):
        return ""
    if layer.padding_mode != "zeros":
        return f"padding mode {layer.padding_mode}"
    return f"padding {layer.padding!r} is not a number" if isinstance(layer.padding, str) else ""


def bias_for(layer: Any, x: Tensor) -> Tensor | None:
    """The layer's bias in the dtype of the layer's output, or in float32."""
    bias = layer.bias
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    # Under autocast the bias may be of the other half type.
    return bias if bias is None or bias.dtype in (dtype, torch.float32) else bias.to(dtype)


def _options(layer: Any) -> dict[str, Any]:
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}


def _biased(z: Tensor, bias: Tensor | None, act: Act) -> Tensor:
    return z if bias is None and act.name == "linear" else bias_act(z, bias, act.name, alpha=act.alpha)


def _conv1d(layer: Any, x: Tensor, act: Act) -> Tensor:
    return _biased(conv1d(x, layer.weight, **_options(layer)), bias_for(layer, x), act)


def _conv2d(layer: Any, x: Tensor, act: Act) -> Tensor:
    bias = bias_for(layer, x)
    if bias is None and act.name == "linear":
        return conv2d(x, layer.weight, **_options(layer))
    return conv2d_bias_act(x, layer.weight, bias, act.name, alpha=act.alpha, **_options(layer))


def _conv_transpose1d(layer: Any, x: Tensor, act: Act) -> Tensor:
    z = conv_transpose1d(x, layer.weight, output_padding=layer.output_padding, **_options(layer))
    return _biased(z, bias_for(layer, x), act)


def _conv_transpose2d(layer: Any, x: Tensor, act: Act) -> Tensor:
    z = conv_transpose2d(x, layer.weight, output_padding=layer.output_padding, **_options(layer))
    return _biased(z, bias_for(layer, x), act)


def _linear(layer: Any, x: Tensor, act: Act) -> Tensor:
    return _biased(F.linear(x, layer.weight), bias_for(layer, x), act)


CONV1D = LayerType("conv", 3, _conv1d)
CONV2D = LayerType("conv", 4, _conv2d)
CONV_TRANSPOSE1D = LayerType("conv", 3, _conv_transpose1d)
CONV_TRANSPOSE2D = LayerType("conv", 4, _conv_transpose2d)
LAYERS: dict[type[nn.Module], LayerType] = {
    nn.Conv1d: CONV1D,
    nn.Conv2d: CONV2D,
    nn.ConvTranspose1d: CONV_TRANSPOSE1D,
    nn.ConvTranspose2d: CONV_TRANSPOSE2D,
    nn.Linear: LayerType("linear", 2, _linear),
}

#: Other modules whose result is a new tensor that nothing else refers to, not even their own backward pass, so that an
#: activation in place after them may run out of place.
_FRESH = {
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Conv3d, nn.ConvTranspose3d,
}  # fmt: skip


def layer_type(module: nn.Module) -> LayerType | None:
    """The type of a convolution or linear layer, fused or not; None for any other module."""
    return LAYERS.get(original_class(module))


def returns_fresh(module: nn.Module) -> bool:
    """Whether only the caller refers to what a module returns."""
    kind = original_class(module)
    return (kind in LAYERS or kind in _FRESH) and has_no_observers(module)
