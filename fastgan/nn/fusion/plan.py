"""The fusion plan: for each module of a network, whether `fuse` changes it, and how or why not.

It depends on the modules' original classes, so that it is the same before and after `fuse`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from fastgan.nn.fusion import chain
from fastgan.nn.fusion.fused_classes import base_without_forward, fused_class, methods, paths_called
from fastgan.nn.fusion.fused_layers import FUSED_LAYERS
from fastgan.nn.fusion.pieces import pieces
from fastgan.nn.fusion.rewrite import NotRewritable
from fastgan.nn.fusion.supported import ACTS, ModuleClass, bare, layer_type, original_class, why_not


@dataclass(frozen=True)
class PlannedModule:
    """One module of the plan."""

    name: str
    module: nn.Module
    #: The name of its original class.
    kind: str
    fused: bool
    #: How it is fused, or why it is skipped.
    reason: str
    becomes: type[nn.Module] | None = None


def fusion_plan(root: nn.Module) -> list[PlannedModule]:
    """The plan of every module of a network, in the order of `named_modules`."""
    together = dict(_joint_descriptions(root))
    return [_planned(name, module, together.get(id(module))) for name, module in _tree(root, "", set())]


def why_sealed(module: nn.Module) -> str:
    """The reason why no submodule may be changed, since the module is compiled; or ""."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a torch.jit.ScriptModule"
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # imported if something was compiled
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        return "a module compiled with torch.compile"
    return ""


def _tree(module: nn.Module, name: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    yield name, module
    if why_sealed(module):
        return
    for child_name, child in module.named_children():
        if child_name == "parametrizations" and parametrize.is_parametrized(module):
            continue  # part of the weights, not of the computation
        yield from _tree(child, f"{name}.{child_name}" if name else child_name, seen)


def _joint_descriptions(root: nn.Module) -> Iterator[tuple[int, str]]:
    """(id, description) of the children of a Sequential that run together with others."""
    for _, module in _tree(root, "", set()):
        if why_sealed(module) or base_without_forward(original_class(module)) is not nn.Sequential:
            continue
        for piece in pieces(list(module), stacks=True):  # type: ignore[call-overload]
            if piece.overwritten:
                yield id(piece.modules[0]), _OVERWRITTEN
            if piece.act is None:
                continue
            stack = f"stack of {len(piece.modules) // 2}: " if piece.stack else ""
            for first, activation in zip(piece.modules[::2], piece.modules[1::2], strict=True):
                layer = layer_type(first)
                if layer is None or why_not(first) or not bare(first):  # a norm, or a layer that runs alone
                    yield id(activation), piece.act.name
                else:
                    description = f"{stack}{layer.label} + {piece.act.name}"
                    yield id(first), description
                    yield id(activation), description


def _planned(name: str, module: nn.Module, together: str | None) -> PlannedModule:
    kind = original_class(module)
    fused, reason, becomes = _decision(module, kind, together)
    return PlannedModule(name, module, kind.__name__, fused, reason, becomes)


Decision = tuple[bool, str, type[nn.Module] | None]


def _decision(module: nn.Module, kind: ModuleClass, together: str | None) -> Decision:
    sealed = why_sealed(module)
    if sealed:
        return False, sealed, None
    if "forward" in module.__dict__:
        return False, "its forward was replaced on the module itself", None
    if isinstance(module, LazyModuleMixin):
        return False, "lazy: it has no weights before its first run", None
    plain = base_without_forward(kind)
    if plain in FUSED_LAYERS:
        return _leaf(module, kind, plain, together)
    if plain is nn.Sequential:
        return True, "runs its children in pieces", fused_class(kind, frozenset())
    if kind is nn.Linear:
        return (True, together, None) if together else (False, "one op already", None)
    if kind.__module__.startswith("torch."):
        return False, _REASONS.get(kind, "runs as in PyTorch"), None
    return _custom(module, kind)


_OVERWRITTEN = "the next module overwrites its output, which our op saves for the backward pass"
_REASONS: dict[type, str] = {
    nn.Softplus: "PyTorch's is linear above a threshold, ours is not",
    nn.ModuleList: "a container without forward",
    nn.ModuleDict: "a container without forward",
}


def _leaf(module: nn.Module, kind: ModuleClass, plain: type[nn.Module], together: str | None) -> Decision:
    ours = fused_class(kind, frozenset())
    if plain not in ACTS:
        reason = why_not(module)
        return (False, reason, None) if reason else (True, together or "convolution", ours)
    act = ACTS[plain](module)
    if act is None:
        return False, f"slope {getattr(module, 'negative_slope', None)} is not a number >= 0", None
    if act.inplace and together is None:
        return False, "in place: fused only after a layer whose result nothing else uses", None
    return together != _OVERWRITTEN, together or act.name, ours


def _custom(module: nn.Module, kind: ModuleClass) -> Decision:
    if isinstance(module, torch.fx.GraphModule):
        return False, "its forward is generated by torch.fx", None
    activations = frozenset(path for path in paths_called(kind) if chain.is_activation(_lookup(module, path)))
    try:
        becomes = fused_class(kind, activations)
    except NotRewritable as error:
        return False, f"its forward is not rewritten: {error}", None
    if becomes is None:
        return False, "nothing to fuse in its forward", None
    return True, f"activations in its {', '.join(name for name in methods(kind) if name in vars(becomes))}", becomes


def _lookup(module: nn.Module, path: str) -> Any:
    """The value of `module.path`, found without running properties."""
    value: Any = module
    for name in path.split("."):
        if not isinstance(value, nn.Module):
            return None
        value = value._modules.get(name, value.__dict__.get(name))
    return value
