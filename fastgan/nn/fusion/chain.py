"""Fuses a layer with the activation after it, decided at each run.

    activation(layer(x)) = apply(activation, defer(layer, x))

`defer` calls any function directly, except a supported layer without hooks, which `apply` runs as one op with its
activation. `Sequential` and the rewritten forward of a user's module (rewrite.py) both use these functions, so that
hooks added later, children replaced later, and unsupported inputs are handled in both.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.nn.fusion.first_order import first_order
from fastgan.nn.fusion.fused_layers import inherited_call
from fastgan.nn.fusion.norms import norm_type
from fastgan.nn.fusion.pending import Pending, made
from fastgan.nn.fusion.supported import (
    LINEAR,
    LINEAR_LAYER,
    Act,
    Called,
    LayerType,
    activate,
    activation_of,
    activation_takes,
    bare,
    called,
    called_as,
    elu,
    layer_type,
    leaky_relu,
    overwrite,
    pads_first,
    prepare,
    returns_fresh,
)


class Deferred(NamedTuple):
    """A result that only the next call uses, or a layer that has not run yet."""

    value: Tensor
    #: The layer to run on value, and its type; None if value is the result.
    layer: nn.Module | Called | None = None
    kind: LayerType | None = None


#: The attribute of a fused module whose forward may get a Pending; see accepting.py.
ACCEPTS = "_fastgan_accepts_pending"

#: The method of a fused module that does what its forward does, but may return a Deferred; see fused_classes.py.
DEFERRING = "_fastgan_deferring"


def defer(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), or a Deferred, which only `apply`, `run_next` and `force` may get."""
    if not isinstance(function, nn.Module):
        call = called(function, args, kwargs)
        return function(*args, **kwargs) if call is None else Deferred(*call)
    if len(args) == 1 and not kwargs and (norm := norm_type(function, args[0])) is not None and bare(function):
        return Deferred(args[0], function, norm)
    if args and first_order(args[0]):
        return function(*args, **kwargs)
    kind = layer_type(function)
    if kind is not None and len(args) == 1 and not kwargs and kind.takes(args[0]) and bare(function):
        return Deferred(args[0], function, kind)
    deferring = getattr(type(function), DEFERRING, None)
    if deferring is not None and bare(function):
        prepare(function)
        return deferring(function, *args, **kwargs)
    result = function(*args, **kwargs)
    return Deferred(result) if type(result) is Tensor and returns_fresh(function) else result


def defer_inherited(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """As `defer`, for super().forward(x) and self._conv_forward(x, weight, bias) of a user's convolution."""
    call = None if torch.compiler.is_compiling() else inherited_call(function, args, kwargs)
    return function(*args, **kwargs) if call is None else Deferred(*call)


def force(deferred: Any) -> Any:
    """The result of what was deferred; anything else as it is."""
    if not isinstance(deferred, Deferred):
        return deferred
    x, layer, kind = deferred
    if layer is None or kind is None:
        return x
    if isinstance(layer, nn.Module):
        return layer(x)
    return F.linear(x, layer.weight, layer.bias) if kind is LINEAR_LAYER else kind.block(layer, x, LINEAR)


def apply(function: Callable[..., Any], deferred: Any, /, *args: Any, **kwargs: Any) -> Any:
    """function(deferred, *args, **kwargs), where deferred came from `defer`."""
    if isinstance(deferred, Pending):
        return _apply_pending(function, deferred, args, kwargs)
    if first_order(deferred):
        return function(deferred, *args, **kwargs)
    if accepts(function) and not args and not kwargs:
        start = _pending(deferred)
        return function(force(deferred)) if start is None else made(_forward(function, start))
    act = _activation_of_call(function, args, kwargs)
    if not isinstance(deferred, Deferred):
        if act is not None and activation_takes(deferred):
            y = overwrite(deferred, act) if act.inplace else activate(deferred, act)
            if y is not None:
                return y
        return function(deferred, *args, **kwargs)
    x, layer, kind = deferred
    if layer is None or kind is None:
        # Nothing else refers to x, so that an activation in place may run out of place.
        return activate(x, act) if act is not None and activation_takes(x) else function(x, *args, **kwargs)
    if act is None:
        return function(force(deferred), *args, **kwargs)
    if isinstance(layer, nn.Module):
        prepare(layer)
    return kind.block(layer, x, act)


def accepts(function: Any) -> bool:
    """Whether a function is a fused module whose forward may get a Pending, without anything that would see it."""
    return bool(getattr(type(function), ACCEPTS, False)) and bare(function) and not function._forward_pre_hooks


def _pending(deferred: Any) -> Pending | None:
    """A tensor or a Deferred as a Pending, where our ops may run what a user's code does with it; else None."""
    x = deferred.value if isinstance(deferred, Deferred) else deferred
    if torch.compiler.is_compiling() or not activation_takes(x) or torch.is_autocast_enabled(x.device.type):
        return None  # a compiler joins elementwise operations by itself
    if not isinstance(deferred, Deferred) or deferred.layer is None:
        return Pending(x)
    layer: Any = deferred.layer
    if isinstance(layer, nn.Module):
        if pads_first(layer) or layer_type(layer) is None:  # the latter is a norm
            return Pending(force(deferred))
        prepare(layer)
        layer = called_as(layer)
    return Pending(x, layer, deferred.kind)


def _forward(module: Any, pending: Pending) -> Any:
    return type(module).forward(module, pending)


def _apply_pending(function: Any, pending: Pending, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if accepts(function) and not args and not kwargs:
        return _forward(function, pending)
    act = _activation_of_call(function, args, kwargs)
    # In place it would overwrite a tensor of the caller.
    if act is None or (act.inplace and pending.is_input):
        return function(made(pending), *args, **kwargs)
    return pending.activated(act)


def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), a function of LAYER_FUNCTIONS."""
    return force(defer(function, *args, **kwargs))


def run_next(function: Callable[..., Any], deferred: Any, /) -> Any:
    """One of several modules that run one after the other: function(deferred), or a Deferred again."""
    if accepts(function) or (isinstance(deferred, Deferred) and _activation_of_call(function, (), {}) is not None):
        return apply(function, deferred)
    return defer(function, force(deferred))


def own(x: Any) -> Any:
    """A copy of a leaky ReLU's result, which may be overwritten: our op saves its result for the backward pass."""
    if not isinstance(x, Tensor) or not x.requires_grad or torch.jit.is_tracing() or first_order(x):
        return x  # PyTorch's operation ran, which saves its input
    return x.clone()


#: A user's function → its rewritten version, or the function itself; see rewrite.has_replacement.
REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {}


def replacement(function: Any) -> Any:
    """The function to call instead of a user's function."""
    return REPLACEMENTS.get(function, function) if isinstance(function, FunctionType) else function


# --- activations as functions ----------------------------------------------------------------------------------------


def relu(x: Any) -> Any:
    """x.relu() as a function."""
    return x.relu()


def tanh(x: Any) -> Any:
    return x.tanh()


def sigmoid(x: Any) -> Any:
    return x.sigmoid()


#: Methods of a tensor, as functions.
METHODS: dict[str, Callable[[Any], Any]] = {"relu": relu, "tanh": tanh, "sigmoid": sigmoid}

#: PyTorch's functions for our activations: function → (name, whether it takes inplace).
_FUNCTIONS: dict[Callable[..., Any], tuple[str, bool]] = {
    F.relu: ("relu", True),
    F.silu: ("silu", True),
    torch.relu: ("relu", False),
    torch.tanh: ("tanh", False),
    F.tanh: ("tanh", False),
    torch.sigmoid: ("sigmoid", False),
    F.sigmoid: ("sigmoid", False),
    **{method: (name, False) for name, method in METHODS.items()},
}


#: The names of all of these.
ACTIVATION_NAMES = {*(function.__name__ for function in _FUNCTIONS), "leaky_relu", "elu"}


def is_activation(function: Any) -> bool:
    """Whether a call of it may be one of our activations."""
    if isinstance(function, nn.Module):
        return activation_of(function) is not None
    return function is F.leaky_relu or function is F.elu or any(function is known for known in _FUNCTIONS)


def _activation_of_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Act | None:
    """The activation that function(x, *args, **kwargs) computes; None for anything else."""
    if isinstance(function, nn.Module):
        return activation_of(function) if not args and not kwargs and bare(function) else None
    if function is F.leaky_relu:
        return leaky_relu(*args, **kwargs) if len(args) < 3 and kwargs.keys() <= {"negative_slope", "inplace"} else None
    if function is F.elu:
        return elu(*args, **kwargs) if len(args) < 3 and kwargs.keys() <= {"alpha", "inplace"} else None
    for known, (name, may_overwrite) in _FUNCTIONS.items():
        if function is known:
            if not args and not kwargs:
                return Act(name)
            if may_overwrite and len(args) + len(kwargs) == 1 and kwargs.keys() <= {"inplace"}:
                return Act(name, 0.0, bool(args[0] if args else kwargs["inplace"]))
    return None
