"""The pieces in which a Sequential runs: a layer with the activation after it, and consecutive such blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from fastgan.nn.fusion import chain
from fastgan.nn.fusion.supported import (
    CONV2D,
    Act,
    activation_of,
    bare,
    layer_type,
    original_class,
    pads_first,
    returns_fresh,
)


class Piece(NamedTuple):
    """Consecutive children that run together: one child, a layer with its activation, or several such blocks."""

    modules: tuple[nn.Module, ...]
    #: The activation at the end of each block.
    act: Act | None = None
    stack: bool = False
    #: One leaky ReLU that PyTorch runs: the next child overwrites its output, which our op would save for backward.
    overwritten: bool = False
    #: One module, and a user's that adds a bias, an activation or a gain to its output.
    biased: bool = False


def pieces(modules: list[nn.Module], stacks: bool) -> Iterator[Piece]:
    """The pieces in which a Sequential of these modules runs. `fusion_report` uses them too."""
    i = 0
    while i < len(modules):
        act = _following_activation(modules, i)
        if act is None and i + 1 < len(modules) and chain.accepts(modules[i + 1]) and not chain.accepts(modules[i]):
            yield Piece(tuple(modules[i : i + 2]), biased=True)
            i += 2
            continue
        if act is None:
            yield Piece((modules[i],), overwritten=_output_is_overwritten(modules, i))
            i += 1
            continue
        end = i + 2
        while stacks and _stackable(modules[i], act) and _continues(modules, i, end, act):
            end += 2
        yield Piece(tuple(modules[i:end]), act, end > i + 2)
        i = end


def _following_activation(modules: list[nn.Module], i: int) -> Act | None:
    """The activation after module i, if it alone gets what that module returns."""
    if i + 1 == len(modules) or not bare(modules[i + 1]):
        return None
    if not returns_fresh(modules[i]) and original_class(modules[i]).__module__.startswith("torch."):
        return None  # a user's module may return a Deferred
    return None if _output_is_overwritten(modules, i + 1) else activation_of(modules[i + 1])


def _output_is_overwritten(modules: list[nn.Module], i: int) -> bool:
    # PyTorch's leaky ReLU saves its input for the backward pass. Ours saves its output, which must not be overwritten.
    if i + 1 >= len(modules) or not getattr(modules[i + 1], "inplace", False):
        return False
    act = activation_of(modules[i])
    return act is not None and act.name == "leaky_relu" and not act.inplace and bare(modules[i])


def _stackable(module: nn.Module, act: Act) -> bool:
    block = layer_type(module) is CONV2D and bare(module) and not pads_first(module)
    return block and act.name in ("relu", "leaky_relu")


def _continues(modules: list[nn.Module], first: int, i: int, act: Act) -> bool:
    """Whether modules i and i + 1 are a block like the one at `first`."""
    if i + 1 >= len(modules) or not _stackable(modules[i], act):
        return False
    a: Any = modules[first]
    b: Any = modules[i]
    other = _following_activation(modules, i)
    return other is not None and other[:2] == act[:2] and (a.bias is None) == (b.bias is None)
