"""The plan of a Sequential in eager mode: its pieces as functions, made anew only if its children changed.

Inspecting the children costs more than running small layers; comparing their signature is much cheaper.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from fastgan.nn.fusion.chain import apply, defer
from fastgan.nn.fusion.first_order import first_order
from fastgan.nn.fusion.pieces import Piece, pieces
from fastgan.nn.fusion.supported import (
    CONV2D,
    Act,
    bias_for,
    has_no_observers,
    layer_type,
    original_class,
    prepare,
)
from fastgan.nn.plain_tensor import is_plain_tensor
from fastgan.ops.conv.layers import ConvLayer, conv2d_stack, run_planned_stack, stack_options

Step = Callable[[Any], Any]
Signature = list[Any]

#: What decides how a module runs, besides its class and hooks, read from its __dict__.
_CONV2D = operator.itemgetter("stride", "padding", "dilation", "groups", "padding_mode")
_OPTIONS: dict[type, Callable[[Any], Any]] = {
    nn.LeakyReLU: operator.itemgetter("negative_slope", "inplace"),
    nn.ELU: operator.itemgetter("alpha", "inplace"),
}
_HOOKS = operator.itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class _Plan:
    modules: list[nn.Module]
    options: list[Callable[[Any], Any]]
    signature: Signature
    steps: list[Step]


#: Not in the modules, whose copies and pickles would hold it.
_plans: weakref.WeakKeyDictionary[nn.Module, _Plan] = weakref.WeakKeyDictionary()


def run_steps(owner: nn.Module, modules: list[nn.Module], make: Callable[[], list[Step]], x: Any) -> Any:
    """Run x through the steps of a module in eager mode. make: returns them; modules: all that they depend on."""
    plan = _plans.get(owner)
    if plan is None or plan.modules != modules or plan.signature != _signature(modules, plan.options):
        options = [_option_getter(module) for module in modules]
        plan = _plans[owner] = _Plan(modules, options, _signature(modules, options), make())
    for step in plan.steps:
        x = step(x)
    return x


def sequential_steps(modules: list[nn.Module]) -> list[Step]:
    """The steps of nn.Sequential of these modules."""
    return [_step(piece) for piece in pieces(modules, stacks=True)]


def _signature(modules: list[nn.Module], options: list[Callable[[Any], Any]]) -> Signature:
    """Everything about the children that `pieces` and the steps depend on, but their parameters."""
    found: list[Any] = [torch_module._has_any_global_hook()]
    for module, own in zip(modules, options, strict=True):
        values = module.__dict__
        hooks = _HOOKS(values)
        # Parametrization and fuse change the class; a forward of its own and a compiled call add an attribute.
        found += type(module), len(values), own(values), [*map(tuple, hooks)] if any(hooks) else None
    return found


def _option_getter(module: nn.Module) -> Callable[[Any], Any]:
    own = getattr(type(module), "plan_options", None) or _OPTIONS.get(original_class(module))
    if own is not None:
        return own
    if layer_type(module) is CONV2D:  # a user's subclass too
        return _CONV2D
    return operator.itemgetter("inplace") if "inplace" in module.__dict__ else lambda values: None


# --- the steps -------------------------------------------------------------------------------------------------------


def _step(piece: Piece) -> Step:
    first, *rest = piece.modules
    if piece.overwritten:
        return lambda x: run_overwritten(first, x)
    if piece.biased:
        return lambda x: apply(rest[0], defer(first, x))
    if piece.act is None:
        # Without hooks, whose absence the signature guards, PyTorch's modules run without the overhead of a call.
        direct = type(first).__module__.startswith("torch.nn.") and has_no_observers(first)
        if not direct or first._forward_pre_hooks:
            return first
        return (
            _linear_step(first)
            if type(first) is nn.Linear and {"weight", "bias"} <= first._parameters.keys()
            else first.forward
        )
    if piece.stack:
        assert piece.act is not None
        layers: Any = piece.modules[::2]
        stacked = stack_step(layers, layers, piece.act, lambda x: run_stack(piece, x))
        if any(getattr(activation, "inplace", False) for activation in piece.modules[1::2]):
            return lambda x: run_blocks(piece, x) if first_order(x) else stacked(x)
        return stacked
    return lambda x: apply(rest[0], defer(first, x))


def _linear_step(layer: nn.Linear) -> Step:
    parameters: dict[str, Any] = layer._parameters
    linear = torch._C._nn.linear

    def step(x: Any) -> Any:
        try:
            weight, bias = parameters["weight"], parameters["bias"]
        except KeyError:  # one is a buffer now
            return layer.forward(x)
        return linear(x, weight, bias)

    return step


def run_overwritten(module: Any, x: Any) -> Any:
    """A leaky ReLU whose output the next module overwrites."""
    return nn.LeakyReLU.forward(module, x)


def run_blocks(piece: Piece, x: Any) -> Any:
    """The blocks of a stack one by one."""
    for layer, act in zip(piece.modules[::2], piece.modules[1::2], strict=True):
        x = apply(act, defer(layer, x))
    return x


def run_stack(piece: Piece, x: Any) -> Any:
    """A stack, inspected now."""
    layers: tuple[Any, ...] = piece.modules[::2]
    act = piece.act
    assert act is not None
    if not CONV2D.supports(x) or len({layer.bias is None for layer in layers}) > 1:
        return run_blocks(piece, x)
    blocks = []
    for layer in layers:  # each weight is read once and after its own hook, which both may iterate a spectral norm
        prepare(layer)
        blocks.append(
            ConvLayer(layer.weight, bias_for(layer, x), layer.stride, layer.padding, layer.dilation, layer.groups)
        )
    return conv2d_stack(x, blocks, act.name, alpha=act.alpha)


def stack_step(layers: Sequence[Any], options_of: Sequence[Any], act: Act, otherwise: Step) -> Step:
    """A stack of convolutions with their parameters as they are then; none where something else computes its weights.

    options_of: of each layer, an object with its stride, padding, dilation and groups. otherwise: runs the stack on
    inputs that this step does not take, and after a bias was added or removed.
    """
    parameters = [layer._parameters for layer in layers]
    # Else a parametrization or a hook computes the weights, or they are buffers.
    if not layers or any(
        not {"weight", "bias"} <= own.keys() or one._forward_pre_hooks
        for own, one in zip(parameters, layers, strict=True)
    ):
        return otherwise
    biased, options = layers[0].bias is not None, stack_options(options_of)

    def step(x: Any) -> Any:
        if is_plain_tensor(x) and x.dim() == 4 and not torch.is_autocast_enabled(x.device.type):
            try:
                biases, weights = [own["bias"] for own in parameters], [own["weight"] for own in parameters]
            except KeyError:  # one is a buffer now
                return otherwise(x)
            if {bias is None for bias in biases} == {not biased}:
                return run_planned_stack(x, weights, biases if biased else [], options, act.name, act.alpha)
        return otherwise(x)

    return step
