"""torch.nn's layers on fastgan's ops: the same parameters, buffers, attributes and names, with another forward.

`fuse` replaces a module's class by one of these. Each runs our op on supported inputs, and PyTorch's forward on others.
Their names are torch.nn's, because weight initializers and printed networks use them.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.nn.fusion import few_outputs
from fastgan.nn.fusion.first_order import first_order
from fastgan.nn.fusion.supported import (
    ACTS,
    CONV1D,
    CONV2D,
    CONV_TRANSPOSE1D,
    CONV_TRANSPOSE2D,
    LINEAR,
    Called,
    LayerType,
    activate,
    activation_takes,
    overwrite,
    pads_first,
    runs_as_product,
    weight_hooks,
)


class Fused(nn.Module):
    """What all fused modules have in common."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The weight that a hook computed in the last run has a graph, which copies and pickles cannot have.
        found: Any = super().__reduce_ex__(protocol)
        make, arguments, *rest = found
        if rest and isinstance(rest[0], dict):
            computed = {hook.name: rest[0].get(hook.name) for hook in weight_hooks(self)}
            detached = {name: value.detach() for name, value in computed.items() if type(value) is Tensor}
            rest[0] = {**rest[0], **detached}
        return make, arguments, *rest

    def __prepare_scriptable__(self) -> Any:
        raise UsageError(
            "torch.jit.script: expected a network before fuse (script a copy made before, or use torch.jit.trace), "
            f"got a fused {type(self).__name__}"
        )


class Conv1d(Fused, nn.Conv1d):
    _fastgan_original = nn.Conv1d

    def forward(self, input: Tensor) -> Tensor:
        # Users' subclasses may have another inner method.
        if type(self)._conv_forward is not Conv1d._conv_forward or not CONV1D.takes(input):
            return nn.Conv1d.forward(self, input)
        return CONV1D.block(self, input, LINEAR)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not CONV1D.takes(input) or pads_first(self):
            return nn.Conv1d._conv_forward(self, input, weight, bias)
        layer = Called(weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return CONV1D.block(layer, input, LINEAR)


class Conv2d(Fused, nn.Conv2d):
    _fastgan_original = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        # Users' subclasses may have another inner method.
        if type(self)._conv_forward is not Conv2d._conv_forward:
            return nn.Conv2d.forward(self, input)
        if not (CONV2D.takes(input) or runs_as_product(CONV2D, self, input)):
            few = first_order(input) and few_outputs.takes(self, input)
            return few_outputs.convolved(self, input) if few else nn.Conv2d.forward(self, input)
        return CONV2D.block(self, input, LINEAR)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not CONV2D.takes(input) or pads_first(self):
            return nn.Conv2d._conv_forward(self, input, weight, bias)
        layer = Called(weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return CONV2D.block(layer, input, LINEAR)


class ConvTranspose1d(Fused, nn.ConvTranspose1d):
    _fastgan_original = nn.ConvTranspose1d

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        if output_size is None and CONV_TRANSPOSE1D.takes(input):
            return CONV_TRANSPOSE1D.block(self, input, LINEAR)
        return nn.ConvTranspose1d.forward(self, input, output_size)


class ConvTranspose2d(Fused, nn.ConvTranspose2d):
    _fastgan_original = nn.ConvTranspose2d

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        takes = CONV_TRANSPOSE2D.takes(input) or runs_as_product(CONV_TRANSPOSE2D, self, input)
        if output_size is None and takes:
            return CONV_TRANSPOSE2D.block(self, input, LINEAR)
        return nn.ConvTranspose2d.forward(self, input, output_size)


def _activated(module: Any, plain: Any, x: Tensor) -> Tensor:
    act = ACTS[plain](module)
    if act is None or not activation_takes(x):
        return plain.forward(module, x)
    y = overwrite(x, act) if act.inplace else activate(x, act)
    return plain.forward(module, x) if y is None else y


class Linear(Fused, nn.Linear):
    """PyTorch's. One whose weight a hook computes gets this class, so that it can be copied after a run."""

    _fastgan_original = nn.Linear


class LeakyReLU(Fused, nn.LeakyReLU):
    _fastgan_original = nn.LeakyReLU

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.LeakyReLU, input)


class ReLU(Fused, nn.ReLU):
    _fastgan_original = nn.ReLU

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.ReLU, input)


class SiLU(Fused, nn.SiLU):
    _fastgan_original = nn.SiLU

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.SiLU, input)


class ELU(Fused, nn.ELU):
    _fastgan_original = nn.ELU

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.ELU, input)


class Tanh(Fused, nn.Tanh):
    _fastgan_original = nn.Tanh

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.Tanh, input)


class Sigmoid(Fused, nn.Sigmoid):
    _fastgan_original = nn.Sigmoid

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.Sigmoid, input)


#: torch.nn's class → the fused class that replaces it.
FUSED_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.Linear: Linear,
    nn.LeakyReLU: LeakyReLU,
    nn.ReLU: ReLU,
    nn.SiLU: SiLU,
    nn.ELU: ELU,
    nn.Tanh: Tanh,
    nn.Sigmoid: Sigmoid,
}

#: The convolutions whose methods a user's subclass may call as super().forward(x) or self._conv_forward(x, ...).
_INHERITED: dict[Any, tuple[type[nn.Module], LayerType]] = {
    method: (kind, layer)
    for kind, layer in ((Conv1d, CONV1D), (Conv2d, CONV2D))
    for method in (vars(kind)["forward"], vars(kind)["_conv_forward"])
}


def inherited_call(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Called, LayerType] | None:
    """As `supported.called`, for a call of a method that a user's class inherits from a fused convolution."""
    if type(function) is not MethodType or function.__func__ not in _INHERITED or kwargs or not args:
        return None
    kind, layer = _INHERITED[function.__func__]
    module: Any = function.__self__
    if pads_first(module) or not layer.takes(args[0]):
        return None
    if function.__func__ is vars(kind)["forward"]:
        if type(module)._conv_forward is not vars(kind)["_conv_forward"] or len(args) != 1:
            return None
        args = (*args, module.weight, module.bias)
    if len(args) != 3:
        return None
    x, weight, bias = args
    return x, Called(weight, bias, module.stride, module.padding, module.dilation, module.groups), layer
