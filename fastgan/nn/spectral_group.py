"""The spectral norms of a network as one group: one power iteration, one scaling and one gradient for all of them.

Before the network runs, the group normalizes all weights and stores each in its norm's slot, from which the layers read
it. After the run, the singular vectors of the layers that ran are written to their buffers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.optimizer import register_optimizer_step_post_hook

from fastgan.errors import UsageError
from fastgan.nn.spectral import (
    HookedSpectralNorm,
    Options,
    SpectralNorm,
    TorchHook,
    TorchParametrization,
    normalize,
    write,
)
from fastgan.ops._capture import on_capture

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Linear, nn.Embedding)


@dataclass(frozen=True)
class Member:
    """A norm of a layer. owner: the module with the weight and buffers, a parametrization list or the layer itself."""

    name: str
    norm: SpectralNorm | HookedSpectralNorm
    layer: nn.Module
    owner: nn.Module

    @property
    def installed(self) -> bool:
        """Whether the layer still has its norm, which PyTorch's functions may have removed."""
        if isinstance(self.norm, SpectralNorm):
            return "parametrizations" in self.layer._modules
        return f"{self.norm.name}_orig" in self.layer._parameters

    @property
    def weight(self) -> Tensor:
        if isinstance(self.norm, SpectralNorm):
            return cast(Tensor, self.owner.original)
        return getattr(self.owner, self.norm.name + "_orig")

    @property
    def vectors(self) -> tuple[Tensor, Tensor]:
        if isinstance(self.norm, SpectralNorm):
            return self.norm._u, self.norm._v
        return getattr(self.owner, self.norm.name + "_u"), getattr(self.owner, self.norm.name + "_v")

    @property
    def training(self) -> bool:
        return self.norm.training if isinstance(self.norm, SpectralNorm) else self.owner.training


class Group:
    """Norms that are computed as one operation whenever the network runs."""

    def __init__(self, members: list[Member]) -> None:
        self.members, self.options = members, members[0].norm.options
        for member in members:
            member.norm.label, member.norm.group = member.name or "the layer", None
        _groups.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies and unpickled groups are notified of optimizer steps too.
        self.__dict__.update(state)
        _groups.add(self)

    def attach(self, root: nn.Module) -> None:
        """Register the hooks that compute the norms when root runs."""
        # Before all other hooks, which may read a weight; and after the run, also if it raises.
        root.register_forward_pre_hook(self.before, prepend=True)
        root.register_forward_hook(self.after, always_call=True)

    @property
    def capturable(self) -> bool:
        """As `SpectralNorm.capturable`."""
        return self.options.every == "forward"

    def before(self, root: nn.Module, inputs: Any) -> None:
        members = [member for member in self.members if member.installed]
        training = {member.training for member in members}
        weights = [member.weight for member in members]
        kinds = {(weight.dtype, weight.device) for weight in weights}
        if len(training) != 1 or len(kinds) != 1:
            return  # each layer then normalizes its own weight
        iterations = self.options.due([member.norm.slot for member in members]) if training.pop() else 0
        vectors = [vector for member in members for vector in member.vectors]
        names, dims = [member.norm.label for member in members], [member.norm.dim for member in members]
        found = normalize(names, weights, vectors, dims, iterations, self.options)
        for member, values in zip(members, found, strict=True):
            member.norm.slot.computed, member.norm.slot.pending = values, None

    def after(self, root: nn.Module, inputs: Any, output: Any) -> None:
        buffers, values = [], []
        for member in self.members:
            slot = member.norm.slot
            if slot.pending is not None and member.installed:
                buffers.append(member.vectors)
                values.append(slot.pending)
            # A layer that did not run keeps its vectors, as without a group.
            slot.computed = slot.pending = None
        if buffers:
            write(buffers, values)

    def holds(self, parameters: set[int]) -> bool:
        """Whether one of its weights is among these, given by id."""
        return any(member.installed and id(member.weight) in parameters for member in self.members)


_groups: weakref.WeakSet[Group] = weakref.WeakSet()


def _after_optimizer_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    waiting = [group for group in _groups if group.options.every == "step"]
    if waiting:
        stepped = {id(p) for entry in optimizer.param_groups for p in entry["params"]}
        for group in waiting:
            if group.holds(stepped):
                for member in group.members:
                    member.norm.slot.fresh = False


# A global hook, because a compiled graph cannot read the versions of tensors, and a hook on one optimizer would have to
# be registered by the user. It costs nothing if no norm has every="step".
register_optimizer_step_post_hook(_after_optimizer_step)


def _before_capture() -> Callable[[], None]:
    # A graph is replayed once per optimizer step, so it must contain the iteration that follows a step.
    waiting = [group for group in _groups if group.options.every == "step"]
    held = [(member.norm.slot, member.norm.slot.fresh) for group in waiting for member in group.members]
    for slot, _ in held:
        slot.fresh = False

    def restore() -> None:
        for slot, fresh in held:
            slot.fresh = fresh

    return restore


on_capture(_before_capture)


# --- the public functions --------------------------------------------------------------------------------------------


def spectral_norm(
    module: nn.Module, n_power_iterations: int = 1, *, every: str = "forward", eps: float = 1e-12
) -> nn.Module:
    """Put a spectral norm on every convolution, transposed convolution, linear layer and embedding of a network.

    module: a network, or one layer; changed in place and returned. All its layers form one group, whose power
    iteration, scaling and gradient are one operation each. n_power_iterations: >= 1. eps: least norm that a vector is
    divided by. every: "forward" iterates at each run in training mode, as torch.nn.utils.parametrizations.spectral_norm
    does, whose numbers and state dict are the same; "step" iterates once per step of the optimizer (any
    torch.optim.Optimizer) that holds the weights, however often the network runs, which is cheaper for a discriminator
    that runs two or three times a step. In eval mode nothing iterates.

    Raises UsageError where no layer is found, or a layer has a spectral norm already; RuntimeError, on the CPU, in a
    run in which a weight contains NaN or infinity, naming the layer.
    """
    found = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, LAYERS)]
    if not found:
        raise UsageError(f"module: expected layers to normalize, got none in {type(module).__name__}")
    for name, layer in found:
        if norm_of(layer) is not None:
            raise UsageError(f"module: {name or 'the layer'} has a spectral norm already")
    for _, layer in found:
        dim = 1 if isinstance(layer, TRANSPOSED) else 0
        norm = SpectralNorm(cast(Tensor, layer.weight), n_power_iterations, dim, eps, every)
        parametrize.register_parametrization(layer, "weight", norm)
    group_spectral_norms(module)
    return module


def group_spectral_norms(module: nn.Module) -> dict[str, str]:
    """Put all spectral norms of a network, PyTorch's two kinds and fastgan's, into groups that are computed at once.

    module: changed in place; its numbers, state dict and buffers stay. Norms with the same options form one group.
    Returns for each layer that has a spectral norm "", or the reason why it is in no group.
    """
    reasons = why_ungrouped(module)
    groups: dict[Options, list[Member]] = {}
    for name, layer in module.named_modules():
        # The group belongs to the outermost module: its members may come from groups of inner modules.
        remove_group_hooks(layer)
        if reasons.get(name) == "":
            member = _adopted(name, layer, norm_of(layer))
            groups.setdefault(member.norm.options, []).append(member)
    for members in groups.values():
        group = Group(members)
        if len(members) > 1:
            group.attach(module)
        else:
            members[0].norm.group = group
    return reasons


def why_ungrouped(module: nn.Module) -> dict[str, str]:
    """For each layer of a module that has a spectral norm: "" if it can be in a group, else the reason why not."""
    norms = {name: (layer, norm_of(layer)) for name, layer in module.named_modules()}
    return {name: _why_ungrouped(layer, norm) for name, (layer, norm) in norms.items() if norm is not None}


def norm_of(layer: nn.Module) -> Any:
    """The norm of a layer's weight, torch's or ours, or None."""
    if parametrize.is_parametrized(layer, "weight"):
        for norm in _chain(layer):
            if type(norm) in (SpectralNorm, TorchParametrization):  # a user's subclass may compute something else
                return norm
    return next((h for h in layer._forward_pre_hooks.values() if type(h) in (HookedSpectralNorm, TorchHook)), None)


def _chain(layer: nn.Module) -> parametrize.ParametrizationList:
    return cast(nn.ModuleDict, layer.parametrizations)["weight"]  # type: ignore[return-value]


def _why_ungrouped(layer: nn.Module, norm: Any) -> str:
    if isinstance(norm, SpectralNorm | TorchParametrization):
        if len(_chain(layer)) > 1:
            return "the weight has other parametrizations besides the spectral norm"
        if _chain(layer).original.dim() < 2:
            return "the weight has one dimension"
    return ""


def _adopted(name: str, layer: nn.Module, norm: Any) -> Member:
    if isinstance(norm, SpectralNorm):
        return Member(name, norm, layer, _chain(layer))
    if isinstance(norm, TorchParametrization):
        own = SpectralNorm.adopt(norm)
        _chain(layer)[0] = own
        return Member(name, own, layer, _chain(layer))
    if not isinstance(norm, HookedSpectralNorm):
        key = next(key for key, hook in layer._forward_pre_hooks.items() if hook is norm)
        layer._forward_pre_hooks[key] = norm = HookedSpectralNorm(norm)
    return Member(name, norm, layer, layer)


def remove_group_hooks(layer: nn.Module) -> None:
    """Remove the hooks of groups from a module."""
    for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), Group)]:
            del hooks[key]
