"""torch.nn's layers on our ops: the same parameters, buffers, attributes and names, another forward.

`fuse` swaps a module's class for one of these. Each runs our op on what it takes, and PyTorch's forward on the rest.
Their names are torch.nn's, because weight initialisers and printed networks look at them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import type_before_parametrizations

from fastgan.ops import bias_act, conv1d, conv2d, conv2d_bias_act, conv_transpose1d, conv_transpose2d


class Act(NamedTuple):
    """An activation as our ops know it, and whether PyTorch's would overwrite its input."""

    name: str
    alpha: float = 0.0
    inplace: bool = False


LINEAR = Act("linear")


# --- when ------------------------------------------------------------------------------------------------------------


#: Those that have no curvature; see conv2d_tower.
ACTIVATIONS_OF_TOWERS = ("relu", "leaky_relu")


def ordinary(x: Any) -> bool:
    """Whether our ops take x as PyTorch's would: no subclass, no transform of torch.func, no forward-mode tangent."""
    if type(x) not in (Tensor, nn.Parameter) or not x.is_floating_point() or x.layout is not torch.strided:
        return False
    if torch.compiler.is_compiling():
        return True
    return torch._C._functorch.peek_interpreter_stack() is None and forward_ad._current_level < 0


def bare(module: nn.Module) -> bool:
    """Whether nobody looks at the calls of a module: no hooks, and no forward or compiled call of its own."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or torch_module._has_any_global_hook()
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
    )


def in_double_under_autocast(x: Tensor) -> bool:
    """Autocast leaves double alone, our ops would not."""
    return x.dtype is torch.float64 and torch.is_autocast_enabled(x.device.type)


# --- convolutions and linear layers ----------------------------------------------------------------------------------


class Layer:
    """What a convolution or a linear layer is to us; the ancestor that fused classes have beside torch.nn's."""

    #: The dimensions that x must have.
    dims: ClassVar[int]
    #: (layer, x, act) → act(layer(x)). It reads the weight once, because a parametrized one changes by being read.
    block: ClassVar[Callable[[Any, Tensor, Act], Tensor]]

    @staticmethod
    def why_not(layer: Any) -> str:
        """Why it is left to PyTorch, in a few words; "" where it need not be."""
        if layer.padding_mode != "zeros":
            return f"padding mode {layer.padding_mode}"
        return f"padding {layer.padding!r} is not a number" if isinstance(layer.padding, str) else ""


def takes(kind: type[Layer], layer: Any, x: Any) -> bool:
    """Whether our op runs this layer on this x."""
    return (
        ordinary(x) and x.dim() == kind.dims and not in_double_under_autocast(x) and not kind.why_not(layer)
    )  # the weight is not looked at, see Layer.block


def _with_bias(z: Tensor, bias: Tensor | None, act: Act) -> Tensor:
    if bias is None and act.name == "linear":
        return z
    return bias_act(z, _beside(bias, z.dtype), act.name, alpha=act.alpha)


def _beside(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    # Our ops add a bias in their own dtype or in float32; under autocast it may be of the other half type.
    if bias is None or bias.dtype in (dtype, torch.float32):
        return bias
    return bias.to(dtype)


def _conv2d(layer: Any, x: Tensor, act: Act) -> Tensor:
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    if layer.bias is None and act.name == "linear":
        return conv2d(x, layer.weight, **options)
    return conv2d_bias_act(x, layer.weight, compute_bias(layer, x), act.name, alpha=act.alpha, **options)


def compute_bias(layer: Any, x: Tensor) -> Tensor | None:
    """The layer's bias in a dtype that a convolution of x takes."""
    device = x.device.type
    return _beside(layer.bias, torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype)


def _conv1d(layer: Any, x: Tensor, act: Act) -> Tensor:
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    return _with_bias(conv1d(x, layer.weight, **options), layer.bias, act)


def _transposed(convolve: Callable[..., Tensor]) -> Callable[[Any, Tensor, Act], Tensor]:
    def block(layer: Any, x: Tensor, act: Act) -> Tensor:
        z = convolve(
            x,
            layer.weight,
            stride=layer.stride,
            padding=layer.padding,
            output_padding=layer.output_padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )
        return _with_bias(z, layer.bias, act)

    return block


def _linear(layer: Any, x: Tensor, act: Act) -> Tensor:
    return _with_bias(F.linear(x, layer.weight), layer.bias, act)


class Conv1d(Layer, nn.Conv1d):
    dims = 3
    block = staticmethod(_conv1d)

    def forward(self, input: Tensor) -> Tensor:
        return _conv1d(self, input, LINEAR) if takes(Conv1d, self, input) else nn.Conv1d.forward(self, input)


class Conv2d(Layer, nn.Conv2d):
    dims = 4
    block = staticmethod(_conv2d)

    def forward(self, input: Tensor) -> Tensor:
        return _conv2d(self, input, LINEAR) if takes(Conv2d, self, input) else nn.Conv2d.forward(self, input)


class ConvTranspose1d(Layer, nn.ConvTranspose1d):
    dims = 3
    block = staticmethod(_transposed(conv_transpose1d))

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is None and takes(ConvTranspose1d, self, input):
            return ConvTranspose1d.block(self, input, LINEAR)
        return nn.ConvTranspose1d.forward(self, input, output_size)


class ConvTranspose2d(Layer, nn.ConvTranspose2d):
    dims = 4
    block = staticmethod(_transposed(conv_transpose2d))

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is None and takes(ConvTranspose2d, self, input):
            return ConvTranspose2d.block(self, input, LINEAR)
        return nn.ConvTranspose2d.forward(self, input, output_size)


class Linear(Layer):
    """A linear layer in front of an activation. Alone it is one op already, so that nn.Linear keeps its class."""

    dims = 2
    block = staticmethod(_linear)

    @staticmethod
    def why_not(layer: Any) -> str:
        return ""


# --- activations -----------------------------------------------------------------------------------------------------


def slope_taken(alpha: Any) -> bool:
    """Whether our leaky_relu has that slope: it reads the side of the kink from the sign of its output."""
    return isinstance(alpha, int | float) and alpha >= 0


class Activation:
    """What an activation is to us."""

    @staticmethod
    def act(module: Any) -> Act | None:
        """As it stands now; None where ours has no such slope."""
        raise NotImplementedError


def activate(x: Tensor, act: Act) -> Tensor:
    return bias_act(x, None, act.name, alpha=act.alpha)


def act_takes(x: Any) -> bool:
    """Whether our activations run on x."""
    return ordinary(x) and x.dim() >= 2


def _forward_of(plain: type[nn.Module]) -> Callable[[Any, Tensor], Tensor]:
    def forward(self: Any, input: Tensor) -> Tensor:
        act = self.act(self)
        # In place it overwrites what others may see; the Sequential around it knows when nobody does.
        if act is None or act.inplace or not act_takes(input):
            return plain.forward(self, input)
        return activate(input, act)

    return forward


class LeakyReLU(Activation, nn.LeakyReLU):
    forward = _forward_of(nn.LeakyReLU)

    @staticmethod
    def act(module: Any) -> Act | None:
        alpha = module.negative_slope
        return Act("leaky_relu", alpha, module.inplace) if slope_taken(alpha) else None


class ReLU(Activation, nn.ReLU):
    forward = _forward_of(nn.ReLU)

    @staticmethod
    def act(module: Any) -> Act:
        return Act("relu", 0.0, module.inplace)


class SiLU(Activation, nn.SiLU):
    forward = _forward_of(nn.SiLU)

    @staticmethod
    def act(module: Any) -> Act:
        return Act("silu", 0.0, module.inplace)


class Tanh(Activation, nn.Tanh):
    forward = _forward_of(nn.Tanh)

    @staticmethod
    def act(module: Any) -> Act:
        return Act("tanh")


class Sigmoid(Activation, nn.Sigmoid):
    forward = _forward_of(nn.Sigmoid)

    @staticmethod
    def act(module: Any) -> Act:
        return Act("sigmoid")


# --- who is who ------------------------------------------------------------------------------------------------------

_CONVOLUTIONS = {
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
}
_ACTIVATIONS = {nn.LeakyReLU: LeakyReLU, nn.ReLU: ReLU, nn.SiLU: SiLU, nn.Tanh: Tanh, nn.Sigmoid: Sigmoid}

#: torch.nn's class → ours, which takes its place.
OURS: dict[type[nn.Module], type[nn.Module]] = {**_CONVOLUTIONS, **_ACTIVATIONS}

_LAYERS: dict[type, type[Layer]] = {
    nn.Linear: Linear,
    **_CONVOLUTIONS,
    **{ours: ours for ours in _CONVOLUTIONS.values()},
}
_KNOWN_ACTIVATIONS: dict[type, type[Activation]] = {
    **_ACTIVATIONS,
    **{ours: ours for ours in _ACTIVATIONS.values()},
}

#: Besides the layers above: modules whose result is a tensor that nobody else holds and their backward does not read,
#: so that PyTorch may overwrite it in place, and we need not.
_FRESH = {
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Conv3d, nn.ConvTranspose3d,
}  # fmt: skip


def layer_kind(module: nn.Module) -> type[Layer] | None:
    """How we run a convolution or linear layer, fused already or not; None for any other module."""
    return _LAYERS.get(type_before_parametrizations(module))


def activation_of(module: nn.Module) -> Act | None:
    """The activation that a module is, fused already or not; None for any other module."""
    kind = _KNOWN_ACTIVATIONS.get(type_before_parametrizations(module))
    return None if kind is None else kind.act(module)


def returns_fresh(module: nn.Module) -> bool:
    """Whether what a module returns is seen by its caller alone."""
    return bare(module) and (layer_kind(module) is not None or type_before_parametrizations(module) in _FRESH)
