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
from fastgan.nn.fusion.fused_classes import (
    accepts,
    base_without_forward,
    fused_class,
    inherits_convolution,
    paths_called,
    rewritten_methods,
)
from fastgan.nn.fusion.fused_layers import FUSED_LAYERS
from fastgan.nn.fusion.norms import FUSED_NORMS, why_not_fused
from fastgan.nn.fusion.pieces import pieces
from fastgan.nn.fusion.rewrite import NotRewritable, Rewritten
from fastgan.nn.fusion.supported import ACTS, ModuleClass, bare, layer_type, original_class, weight_hooks
from fastgan.nn.fusion.syntax import class_attribute
from fastgan.ops import ACTIVATIONS


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
                norm = base_without_forward(original_class(first)) in FUSED_NORMS
                if norm and bare(first) and not why_not_fused(first):
                    yield id(first), f"instance norm + {piece.act.name}"
                    yield id(activation), f"instance norm + {piece.act.name}"
                elif layer is None or not bare(first):  # another norm, or a layer that runs alone
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
    if plain in FUSED_NORMS:
        problem = why_not_fused(module)
        return not problem, problem or together or "instance norm", None if problem else fused_class(kind, frozenset())
    if plain in FUSED_LAYERS:
        return _leaf(module, kind, plain, together)
    if plain is nn.Sequential:
        return True, "runs its children in pieces", fused_class(kind, frozenset())
    if kind.__module__.startswith("torch."):
        return False, _REASONS.get(kind, "runs as in PyTorch"), None
    return _custom(module, kind)


#: What the passes of the engine do with a module that fuse skips.
_IN_A_GRAPH = "in a step of fastgan.compile the graph passes remove the zeros of its double backward"
_OVERWRITTEN = "the next module overwrites its output, which our op saves for the backward pass"
_CURVED = "runs as in PyTorch: its second derivative is not zero, so that PyTorch's double backward wastes nothing"
_REASONS: dict[type, str] = {
    nn.GELU: _CURVED,
    nn.Mish: _CURVED,
    nn.PReLU: "runs as in PyTorch: its slope is a parameter, which our activations do not take",
    nn.Conv3d: "runs as in PyTorch: our convolutions have one or two dimensions",
    nn.ConvTranspose3d: "runs as in PyTorch: our convolutions have one or two dimensions",
    nn.Softplus: "PyTorch's is linear above a threshold, ours is not",
    nn.ReflectionPad2d: "runs as in PyTorch: it takes a few hundredths of the convolution after it",
    nn.ReplicationPad2d: "runs as in PyTorch: it takes a few hundredths of the convolution after it",
    nn.ModuleList: "a container without forward",
    nn.ModuleDict: "a container without forward",
}


def _leaf(module: nn.Module, kind: ModuleClass, plain: type[nn.Module], together: str | None) -> Decision:
    ours = fused_class(kind, frozenset())
    if plain is nn.Linear:
        hooked = "a weight that is computed once" if weight_hooks(module) else ""
        return bool(together or hooked), together or hooked or "one op already", ours if hooked else None
    if plain not in ACTS:
        return True, together or "convolution", ours
    act = ACTS[plain](module)
    if act is None:
        slope = getattr(module, "negative_slope", getattr(module, "alpha", None))
        return False, f"slope {slope} is not a number >= 0", None
    if act.inplace and together is None and ACTIVATIONS[act.name].saves == "input":
        return False, "in place: fused only after a layer whose result nothing else uses", None
    return together != _OVERWRITTEN, together or act.name, ours


def _custom(module: nn.Module, kind: ModuleClass) -> Decision:
    if isinstance(module, torch.fx.GraphModule):
        return False, "its forward is generated by torch.fx", None
    activations = activations_called(module, kind)
    try:
        becomes = fused_class(kind, activations)
        new = rewritten_methods(kind, activations) if becomes is not None else {}
    except NotRewritable as error:
        return False, f"its forward is not rewritten: {error}; {_IN_A_GRAPH}", None
    if becomes is None:
        return False, "calls no activation or convolution as a function; its children have rows of their own", None
    description = _description(module, kind, new)
    if accepts(kind, activations):
        description += "; with its bias and gain it joins the layer before as one op"
    return True, description, becomes


def activations_called(module: nn.Module, kind: ModuleClass) -> frozenset[str]:
    """The attributes that a module's methods call and that are activations, users' own with bias and gain too."""
    called = ((path, _lookup(module, path)) for path in paths_called(kind))
    return frozenset(path for path, value in called if chain.is_activation(value) or is_biased_activation(value))


def is_biased_activation(module: Any) -> bool:
    """Whether a value is a user's module that computes a bias, an activation, a gain or a clamp."""
    if not isinstance(module, nn.Module):
        return False
    kind = original_class(module)
    custom = not kind.__module__.startswith("torch.") and base_without_forward(kind) is kind
    return custom and "forward" not in module.__dict__ and accepts(kind, activations_called(module, kind))


def _description(module: nn.Module, kind: ModuleClass, new: dict[str, Rewritten]) -> str:
    """What runs on our ops in the methods of a user's module."""
    parts = ["the convolution that it inherits"] if inherits_convolution(kind) is not None else []
    own = {name: one for name, one in new.items() if name != chain.DEFERRING}
    calls = sum(one.activations for one in own.values())
    if calls:
        text = f"{calls} activation{'s' if calls > 1 else ''} called in its "
        text += ", ".join(name for name, one in own.items() if one.activations)
        found = [None if path is None else _lookup(module, path) for one in own.values() for path in one.pairs]
        joined = sum(isinstance(layer, nn.Module) and bare(layer) and layer_type(layer) is not None for layer in found)
        # Loops, conditions, and users' modules that return the result of a layer.
        possible = sum(layer is None or not original_class(layer).__module__.startswith("torch.") for layer in found)
        if joined:
            text += f", {joined} as one op with the layer before"
        if possible:
            text += f", {possible} as one op where a layer runs directly before it"
        parts.append(text)
    convolutions = sum(one.convolutions for one in own.values())
    if convolutions:
        parts.append(f"{convolutions} convolution{'s' if convolutions > 1 else ''} called as a function")
    if any(one.loops for one in own.values()):
        parts.append("a loop over modules, a layer with the activation after it as one op")
    if not parts:
        parts.append(
            "its result, with the activation after it" if chain.DEFERRING in new else "activations in functions"
        )
    return "; ".join(parts)


def _lookup(module: nn.Module, path: str) -> Any:
    """The value of `module.path`, found without running properties."""
    value: Any = module
    for name in path.split("."):
        if not isinstance(value, nn.Module):
            return None
        found = value._modules.get(name, value.__dict__.get(name))
        value = class_attribute(type(value), name) if found is None else found
    return value
