"""The class that a fused module gets, made from the class it had.

torch.nn's own layers have a counterpart in layers.py. For a user's class there is a subclass with other
methods, made when it is needed and never named anywhere: pickles hold the user's class and how it was fused.
"""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from fastgan.nn.fusion.fused_layers import OURS
from fastgan.nn.fusion.rewrite import NotRewritable, called_paths, rewritten
from fastgan.nn.fusion.sequential import Sequential
from fastgan.nn.fusion.supported import ModuleClass

_STATIC: dict[type[nn.Module], type[nn.Module]] = {**OURS, nn.Sequential: Sequential}
#: What the forward of torch.nn's convolutions calls on the module: who overrides it has another forward.
_INNER = ("_conv_forward", "_output_padding")


def base_without_forward(kind: ModuleClass) -> type[nn.Module]:
    """torch.nn's class whose forward a class runs unchanged, else the class itself."""
    for plain in _STATIC:
        if issubclass(kind, plain) and all(
            getattr(kind, name, None) is getattr(plain, name, None) for name in ("forward", *_INNER)
        ):
            return plain
    return kind


def methods(kind: ModuleClass) -> dict[str, FunctionType]:
    """The methods that a user wrote for a class and its ancestors, up to PyTorch's."""
    found: dict[str, Any] = {}
    for ancestor in kind.__mro__:
        if ancestor is nn.Module or ancestor.__module__.startswith("torch."):
            break
        found = {**vars(ancestor), **found}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, FunctionType) and not (name.startswith("__") and name.endswith("__"))
    }


@functools.cache
def paths_called(kind: ModuleClass) -> frozenset[str]:
    """What the methods of a class call on `self`; see rewrite.called_paths."""
    paths: set[str] = set()
    for function in methods(kind).values():
        try:
            paths |= called_paths(function)
        except NotRewritable:
            continue
    return frozenset(paths)


@functools.cache
def fused_class(kind: ModuleClass, activations: frozenset[str]) -> type[nn.Module] | None:
    """The class that takes the place of `kind`, or None where nothing would change.

    activations: what its methods call on `self` that is an activation. NotRewritable, if its forward is.
    """
    plain = base_without_forward(kind)
    if plain in _STATIC:
        ours = _STATIC[plain]
        return ours if plain is kind else _derived(kind, activations, {"forward": vars(ours)["forward"]})
    new = {}
    for name, function in methods(kind).items():
        try:
            changed = rewritten(function, activations)
        except NotRewritable:
            if name == "forward":
                raise
            continue
        if changed is not None:
            new[name] = changed
    return _derived(kind, activations, new) if new else None


def _derived(kind: ModuleClass, activations: frozenset[str], members: dict[str, Any]) -> type[nn.Module]:
    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        make, arguments, *rest = super(derived, self).__reduce_ex__(protocol)
        arguments = tuple(kind if argument is derived else argument for argument in arguments)
        return _made_again, (kind, activations, make, arguments), *rest

    own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    derived: type[Any] = type(
        kind.__name__, (kind,), {**own, "_fastgan_original": kind, "__reduce_ex__": __reduce_ex__, **members}
    )
    return derived


def _made_again(kind: ModuleClass, activations: frozenset[str], make: Any, arguments: tuple[Any, ...]) -> Any:
    """A fused module as pickle and copy make it, still without its state. Where fusing fails now, the plain one."""
    module = make(*arguments)
    try:
        ours = fused_class(kind, activations)
    except NotRewritable:
        return module
    if ours is not None and type(module) is kind:
        module.__class__ = ours
    return module


def swap(module: nn.Module, ours: type[nn.Module]) -> None:
    """Gives a module its new class. A parametrized one keeps its properties: its class is made anew above ours."""
    if parametrize.is_parametrized(module):
        old = type(module)
        members = {name: value for name, value in vars(old).items() if name not in ("__dict__", "__weakref__")}
        ours = type(old.__name__, (ours,), members)
    module.__class__ = ours
