"""Values in Python that host_state.py compares and restores: numbers, containers, arrays, random generators."""

from __future__ import annotations

import collections
import enum
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

LEAVES = (bool, int, float, complex, str, bytes, type(None), enum.Enum, torch.dtype, torch.device)
CONTAINERS = (list, tuple, set, frozenset, dict, collections.deque)

#: Of attributes and globals, in a function's code.
Names = frozenset[str]


@contextmanager
def generators_kept() -> Iterator[None]:
    """A context that restores the random generators of Python, NumPy and PyTorch after an exception."""
    states, cpu = global_generators(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    except BaseException:
        for _, _, restore, state in states:
            restore(state)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(gpus)
        raise


def global_generators() -> list[tuple[str, Callable[[], Any], Callable[[Any], None], Any]]:
    found: list[Any] = [("random", random.getstate, random.setstate, random.getstate())]
    if (numpy := sys.modules.get("numpy")) is not None:
        get, put = numpy.random.get_state, numpy.random.set_state
        found.append(("numpy.random", get, put, get()))
    return found


def names_in(code: types.CodeType) -> Names:
    """The names of attributes and globals in a function and in those defined in it, and the texts, for getattr."""
    found = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= names_in(constant)
        elif isinstance(constant, str) and constant.isidentifier():
            found.add(constant)
    return frozenset(found)


def computed_weights(module: nn.Module) -> list[str]:
    """The attributes that the older weight_norm and spectral_norm compute before each run of a module."""
    hooks: list[Any] = [  # also of classes derived from PyTorch's, as fuse's spectral norm is
        hook
        for hook in module._forward_pre_hooks.values()
        if any(kind.__module__.startswith("torch.nn.utils.") for kind in type(hook).__mro__)
    ]
    return [hook.name for hook in hooks if isinstance(getattr(hook, "name", None), str)]


def same(now: Any, before: Any) -> bool:
    if now is before:
        return True
    return (
        type(now) is type(before) and isinstance(now, LEAVES) and (now == before or (now != now and before != before))
    )


def same_content(held: Any, copy: Any) -> bool:
    if isinstance(held, dict):
        return held.keys() == copy.keys() and all(same(held[key], copy[key]) for key in copy)
    if isinstance(held, set):
        return held == copy
    if isinstance(held, list | collections.deque):
        return len(held) == len(copy) and all(map(same, held, copy))
    return bool(held.shape == copy.shape and held.tobytes() == copy.tobytes())


def same_state(now: Any, before: Any) -> bool:
    if isinstance(now, dict):
        return all(same_state(now[key], before[key]) for key in before)
    if isinstance(now, tuple):
        return all(map(same_state, now, before))
    return bool((now == before).all()) if hasattr(now, "all") else bool(now == before)


def refill(held: Any, copy: Any) -> None:
    if isinstance(held, dict | set):
        held.clear()
        held.update(copy)
    elif isinstance(held, list | collections.deque):
        held.clear()
        held.extend(copy)
    else:
        held[...] = copy


def containers(args: Any) -> set[int]:
    """The ids of the containers among arguments."""
    found = {id(args)} if isinstance(args, CONTAINERS) else set()
    for value in (args.values() if isinstance(args, dict) else args) if found else ():
        found |= containers(value)
    return found


def shown(value: Any) -> str:
    return repr(value) if isinstance(value, LEAVES) else type(value).__name__
