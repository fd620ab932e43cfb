"""What fusing does with each module of a tree, and why: `fuse` acts by it, `fusion_report` shows it.

A module is judged by the class that its user gave it, so that the plan is the same before and after.
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
from fastgan.nn.fusion.fused_layers import OURS
from fastgan.nn.fusion.rewrite import NotRewritable
from fastgan.nn.fusion.sequential import pieces
from fastgan.nn.fusion.supported import ACTS, ModuleClass, bare, layer_kind, original_class, why_not


@dataclass(frozen=True)
class Step:
    """One module of the plan."""

    name: str
    module: nn.Module
    #: The name of the class that its user gave it.
    kind: str
    fused: bool
    #: What it becomes, or why it is left.
    reason: str
    becomes: type[nn.Module] | None = None


def plan(root: nn.Module) -> list[Step]:
    """A step for every module of a tree, in the order of `named_modules`."""
    together = dict(_together(root))
    return [_step(name, module, together.get(id(module))) for name, module in _tree(root, "", set())]


def is_sealed(module: nn.Module) -> str:
    """Why nothing inside a module may be touched, "" where it may: it has been compiled into something else."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a torch.jit.ScriptModule"
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # imported by whoever compiled something, and else not needed
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        return "a module compiled with torch.compile"
    return ""


def _tree(module: nn.Module, name: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    yield name, module
    if is_sealed(module):
        return
    for child_name, child in module.named_children():
        if child_name == "parametrizations" and parametrize.is_parametrized(module):
            continue  # part of the module's own weights, not of what runs
        yield from _tree(child, f"{name}.{child_name}" if name else child_name, seen)


def _together(root: nn.Module) -> Iterator[tuple[int, str]]:
    """What children of a Sequential run as: id of the child → words."""
    for _, module in _tree(root, "", set()):
        if is_sealed(module) or base_without_forward(original_class(module)) is not nn.Sequential:
            continue
        for piece in pieces(list(module), stacks=True):  # type: ignore[call-overload]
            if piece.overwritten:
                yield id(piece.modules[0]), _OVERWRITTEN
            if piece.act is None:
                continue
            stack = f"stack of {len(piece.modules) // 2}: " if piece.stack else ""
            for first, activation in zip(piece.modules[::2], piece.modules[1::2], strict=True):
                layer = layer_kind(first)
                if layer is None or why_not(first) or not bare(first):  # a norm, or a layer that runs by itself
                    yield id(activation), piece.act.name
                else:
                    words = f"{stack}{layer.word} + {piece.act.name}"
                    yield id(first), words
                    yield id(activation), words


def _step(name: str, module: nn.Module, together: str | None) -> Step:
    kind = original_class(module)
    fused, reason, becomes = _verdict(module, kind, together)
    return Step(name, module, kind.__name__, fused, reason, becomes)


Verdict = tuple[bool, str, type[nn.Module] | None]


def _verdict(module: nn.Module, kind: ModuleClass, together: str | None) -> Verdict:
    sealed = is_sealed(module)
    if sealed:
        return False, sealed, None
    if "forward" in module.__dict__:
        return False, "its forward was replaced on the module itself", None
    if isinstance(module, LazyModuleMixin):
        return False, "lazy: it has no weights until it has run once", None
    plain = base_without_forward(kind)
    if plain in OURS:
        return _leaf(module, kind, plain, together)
    if plain is nn.Sequential:
        return True, "runs its children in pieces", fused_class(kind, frozenset())
    if kind is nn.Linear:
        return (True, together, None) if together else (False, "alone it is one op already", None)
    if kind.__module__.startswith("torch."):
        return False, _REASONS.get(kind, "runs as in PyTorch"), None
    return _custom(module, kind)


_OVERWRITTEN = "the next module overwrites its output, which ours would keep for the backward pass"
_REASONS: dict[type, str] = {
    nn.Softplus: "PyTorch's is linear above a threshold, ours nowhere",
    nn.ModuleList: "only holds its children",
    nn.ModuleDict: "only holds its children",
}


def _leaf(module: nn.Module, kind: ModuleClass, plain: type[nn.Module], together: str | None) -> Verdict:
    ours = fused_class(kind, frozenset())
    if plain not in ACTS:
        reason = why_not(module)
        return (False, reason, None) if reason else (True, together or "convolution", ours)
    act = ACTS[plain](module)
    if act is None:
        return False, f"slope {getattr(module, 'negative_slope', None)} is not a number >= 0", None
    if act.inplace and together is None:
        return False, "in place: fused only behind a layer whose result nobody else sees", None
    return together != _OVERWRITTEN, together or act.name, ours


def _custom(module: nn.Module, kind: ModuleClass) -> Verdict:
    if isinstance(module, torch.fx.GraphModule):
        return False, "its forward is generated by torch.fx", None
    activations = frozenset(path for path in paths_called(kind) if chain.is_activation(_lookup(module, path)))
    try:
        becomes = fused_class(kind, activations)
    except NotRewritable as error:
        return False, f"its forward is left: {error}", None
    if becomes is None:
        return False, "nothing to fuse in its forward", None
    return True, f"activations in its {', '.join(name for name in methods(kind) if name in vars(becomes))}", becomes


def _lookup(module: nn.Module, path: str) -> Any:
    """What `module.path` is, found without running properties."""
    value: Any = module
    for name in path.split("."):
        if not isinstance(value, nn.Module):
            return None
        value = value._modules.get(name, value.__dict__.get(name))
    return value
