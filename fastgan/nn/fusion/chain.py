"""Calls one behind the other, decided when they run: a layer and the activation that alone sees its result.

    activation(layer(x)) = finish(activation, hold(layer, x))

hold runs whatever it is given, unless it is a layer of ours that nobody watches; finish then makes one op of the two.
The same two functions serve `Sequential` and the rewritten forward of a user's module (rewrite.py), so that
hooks added later, children replaced later, and strange inputs are right in both.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.nn.fusion.supported import (
    Act,
    Kind,
    activate,
    activation_of,
    activation_takes,
    bare,
    layer_kind,
    leaky_relu,
    prepare,
    returns_fresh,
)


class Held(NamedTuple):
    """A result that only the next call sees, or a layer that has not run yet."""

    value: Tensor
    #: The layer to run on value, and how; None where value is the result.
    layer: nn.Module | None = None
    kind: Kind | None = None


def hold(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), perhaps put off or marked as nobody else's. Only `finish` may see what it returns."""
    if not isinstance(function, nn.Module):
        return function(*args, **kwargs)
    kind = layer_kind(function)
    if kind is not None and len(args) == 1 and not kwargs and bare(function) and kind.takes(function, args[0]):
        return Held(args[0], function, kind)
    result = function(*args, **kwargs)
    return Held(result) if type(result) is Tensor and returns_fresh(function) else result


def finish(function: Callable[..., Any], held: Any, /, *args: Any, **kwargs: Any) -> Any:
    """function(held, *args, **kwargs), where held came from `hold`."""
    act = _meaning(function, args, kwargs)
    if not isinstance(held, Held):
        if act is not None and not act.inplace and activation_takes(held):
            return activate(held, act)
        return function(held, *args, **kwargs)
    x, layer, kind = held
    if layer is None or kind is None:
        # Nobody else sees x, so that an activation in place may as well run out of place.
        return activate(x, act) if act is not None and activation_takes(x) else function(x, *args, **kwargs)
    if act is not None:
        prepare(layer)
        return kind.block(layer, x, act)
    return function(layer(x), *args, **kwargs)


#: A user's function → the same on our ops, or the function itself; see rewrite.learn_stand_in.
STAND_INS: dict[Callable[..., Any], Callable[..., Any]] = {}


def stand_in(function: Any) -> Any:
    """The function to call in place of this one."""
    return STAND_INS.get(function, function) if isinstance(function, FunctionType) else function


# --- activations as functions ----------------------------------------------------------------------------------------


def relu(x: Any) -> Any:
    """x.relu(), to have a name for it."""
    return x.relu()


def tanh(x: Any) -> Any:
    return x.tanh()


def sigmoid(x: Any) -> Any:
    return x.sigmoid()


#: Methods of a tensor, as functions.
METHODS: dict[str, Callable[[Any], Any]] = {"relu": relu, "tanh": tanh, "sigmoid": sigmoid}

#: Functions of PyTorch that are activations of ours: function → (name, does it take inplace).
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


def is_activation(function: Any) -> bool:
    """Whether calling it may be an activation of ours."""
    if isinstance(function, nn.Module):
        return activation_of(function) is not None
    return function is F.leaky_relu or any(function is known for known in _FUNCTIONS)


def _meaning(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Act | None:
    """The activation that function(x, *args, **kwargs) is; None for anything else."""
    if isinstance(function, nn.Module):
        return activation_of(function) if not args and not kwargs and bare(function) else None
    if function is F.leaky_relu:
        return leaky_relu(*args, **kwargs) if len(args) < 3 and kwargs.keys() <= {"negative_slope", "inplace"} else None
    for known, (name, may_overwrite) in _FUNCTIONS.items():
        if function is known:
            if not args and not kwargs:
                return Act(name)
            if may_overwrite and len(args) + len(kwargs) == 1 and kwargs.keys() <= {"inplace"}:
                return Act(name, 0.0, bool(args[0] if args else kwargs["inplace"]))
    return None
