"""The class of a fused module, made from its original class.

torch.nn's layers have counterparts in fused_layers.py. For a user's class a subclass with rewritten methods is made on
demand. Pickles contain the user's class and how it was fused, not the subclass.
"""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from fastgan.nn.fusion.chain import ACCEPTS, DEFERRING
from fastgan.nn.fusion.fused_layers import FUSED_LAYERS, Fused
from fastgan.nn.fusion.norms import FUSED_NORMS
from fastgan.nn.fusion.rewrite import NotRewritable, Rewritten, called_paths, rewritten, takes_pending
from fastgan.nn.fusion.sequential import Sequential
from fastgan.nn.fusion.supported import ACTS, ModuleClass, has_forward_of

_STATIC: dict[type[nn.Module], type[nn.Module]] = {**FUSED_LAYERS, **FUSED_NORMS, nn.Sequential: Sequential}


def base_without_forward(kind: ModuleClass) -> type[nn.Module]:
    """The class of torch.nn whose forward a class inherits unchanged, else the class itself."""
    return next((plain for plain in _STATIC if has_forward_of(kind, plain)), kind)


def methods(kind: ModuleClass) -> dict[str, FunctionType]:
    """The methods that users' code defines in a class and its ancestors, up to PyTorch's."""
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
    """The attributes that the methods of a class call on `self`; see rewrite.called_paths."""
    paths: set[str] = set()
    for function in methods(kind).values():
        try:
            paths |= called_paths(function)
        except NotRewritable:
            continue
    return frozenset(paths)


@functools.cache
def rewritten_methods(kind: ModuleClass, activations: frozenset[str]) -> dict[str, Rewritten]:
    """The methods of a user's class that run on our ops, rewritten; with the forward that may return a Deferred.

    activations: the attributes of `self` that its methods call and that are activations. Raises NotRewritable if its
    forward cannot be rewritten.
    """
    found = {}
    for name, function in methods(kind).items():
        try:
            versions = {name: rewritten(function, activations)}
            if name == "forward":
                versions[DEFERRING] = rewritten(function, activations, deferring=True)
        except NotRewritable:
            if name == "forward":
                raise
            continue
        found.update({key: one for key, one in versions.items() if one is not None})
    return found


@functools.cache
def fused_class(kind: ModuleClass, activations: frozenset[str]) -> type[nn.Module] | None:
    """The class that replaces `kind`, or None if nothing would change. The rest as for `rewritten_methods`."""
    plain = base_without_forward(kind)
    if plain in _STATIC:
        ours = _STATIC[plain]
        return ours if plain is kind else _derived(kind, activations, {}, ours)
    new: dict[str, Any] = {name: one.function for name, one in rewritten_methods(kind, activations).items()}
    if new and accepts(kind, activations):
        new[ACCEPTS] = True
    layer = inherits_convolution(kind)
    return _derived(kind, activations, new, layer or Fused) if new or layer else None


def accepts(kind: ModuleClass, activations: frozenset[str]) -> bool:
    """Whether the forward of a user's class may get a Pending: it is a bias, an activation, a gain or a clamp."""
    forward = methods(kind).get("forward")
    return forward is not None and takes_pending(forward, activations)


def inherits_convolution(kind: ModuleClass) -> type[nn.Module] | None:
    """The fused convolution that a user's convolution runs by `super().forward` or `_conv_forward`; or None."""
    plain = next((plain for plain in FUSED_LAYERS if plain not in ACTS and issubclass(kind, plain)), None)
    if plain is None:
        return None
    if methods(kind).get("forward") is None:  # PyTorch's forward, with another inner method
        return FUSED_LAYERS[plain]
    names = {name for function in methods(kind).values() for name in function.__code__.co_names}
    return FUSED_LAYERS[plain] if names & {"forward", "_conv_forward"} else None


def _derived(
    kind: ModuleClass, activations: frozenset[str], members: dict[str, Any], ours: type[nn.Module] = Fused
) -> type[nn.Module]:
    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        make, arguments, *rest = super(derived, self).__reduce_ex__(protocol)
        arguments = tuple(kind if argument is derived else argument for argument in arguments)
        return _reconstruct, (kind, activations, make, arguments), *rest

    own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    # Ours comes after the user's class, whose `super()` then finds our layer before PyTorch's.
    derived: type[Any] = type(
        kind.__name__, (kind, ours), {**own, "_fastgan_original": kind, "__reduce_ex__": __reduce_ex__, **members}
    )
    return derived


def _reconstruct(kind: ModuleClass, activations: frozenset[str], make: Any, arguments: tuple[Any, ...]) -> Any:
    """A fused module for pickle and copy, still without its state. The plain module if fusing is not possible now."""
    module = make(*arguments)
    try:
        ours = fused_class(kind, activations)
    except NotRewritable:
        return module
    if ours is not None and type(module) is kind:
        module.__class__ = ours
    return module


def set_class(module: nn.Module, ours: type[nn.Module]) -> None:
    """Set the class of a module. A parametrized one gets a new class derived from `ours`, with the same properties."""
    if parametrize.is_parametrized(module):
        old = type(module)
        members = {name: value for name, value in vars(old).items() if name not in ("__dict__", "__weakref__")}
        ours = type(old.__name__, (ours,), members)
    module.__class__ = ours
