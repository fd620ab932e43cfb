"""Whether a loss of a network can be captured as a CUDA graph of its own, and what makes a captured one invalid."""

from __future__ import annotations

import enum
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.ops._capture import is_capturable

#: Arguments of these types never change.
_CONSTANTS = bool | int | float | complex | str | bytes | None | torch.dtype | torch.device | enum.Enum
_NUMBERS = frozenset((bool, int, float, str))


def why_not(network: Any, arguments: list[Any]) -> str:
    """The reason why losses of a network with these arguments run in Python, or ""."""
    if not isinstance(network, nn.Module):
        return f"{type(network).__name__} is not a torch.nn.Module, so its weights are unknown"
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return "it is part of a CUDA graph that is being captured"
    for name, weight in network.named_parameters():
        if weight.requires_grad and not weight.is_leaf:
            return f"{name} is computed from other weights"
        if weight._backward_hooks:
            return f"{name} has a gradient hook, which must run in Python"
        if weight.dtype == torch.float16:
            return f"{name} is in fp16, whose gradients need the loss scale, which comes after the loss"
    for name, module in network.named_modules():
        kind = type(module).__name__
        parallel = isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel)
        if parallel or "FullyShardedDataParallel" in kind:
            return f"{kind} communicates when it runs; give the losses the module inside it"
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(not is_capturable(hook) for own in hooks if own for hook in own.values()):
            return f"{name or type(module).__name__} has a hook, which must run in Python"
        if not is_capturable(module, unknown=True):
            return f"{name or type(module).__name__} decides in Python what it does in each step"
    if torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.float16:
        return "under autocast to fp16 the gradients need the loss scale, which comes after the loss"
    return why_not_arguments(arguments)


def why_not_arguments(arguments: list[Any]) -> str:
    """The reason why losses with these arguments, of which the images are the first, run in Python, or ""."""
    for value in arguments:
        if not isinstance(value, Tensor | _CONSTANTS):
            return f"an argument is a {type(value).__name__}, which may change"
        if isinstance(value, Tensor) and value.device != arguments[0].device:
            return f"an argument is on {value.device}, whose value a graph would keep"
        if isinstance(value, Tensor) and value.requires_grad:
            return "an argument requires a gradient"
    return ""


def network_signature(network: nn.Module | None) -> list[Any]:
    """What a captured graph of a network holds fixed and Python may change: its modules, how many hooks they have, the
    numbers and texts among their attributes (`training`, a fade-in weight), which tensors their buffers and attributes
    are, and which weights are trained."""
    assert network is not None
    found: list[Any] = []
    for module in network.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        found += id(module), sum(map(len, hooks))
        for value in module.__dict__.values():
            kind = type(value)
            if kind in _NUMBERS:
                found.append(value)
            elif kind is Tensor:
                found.append(id(value))
        found += map(id, module._buffers.values())
        found += [
            (id(w), w.requires_grad, bool(w._backward_hooks)) for w in module._parameters.values() if w is not None
        ]
    return found
