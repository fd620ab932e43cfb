"""nn.Sequential that runs a layer and the activation after it as one op, and consecutive such blocks as one stack.

It inspects its children at each run, so that hooks, replaced children and appended children are handled too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from fastgan.nn.fusion.chain import apply, defer
from fastgan.nn.fusion.supported import (
    CONV2D,
    Act,
    activation_of,
    bare,
    bias_for,
    layer_type,
    prepare,
    returns_fresh,
    why_not,
)
from fastgan.ops import ConvLayer, conv2d_stack


class Piece(NamedTuple):
    """Consecutive children that run together: one child, a layer with its activation, or several such blocks."""

    modules: tuple[nn.Module, ...]
    #: The activation at the end of each block.
    act: Act | None = None
    stack: bool = False
    #: One leaky ReLU that PyTorch runs: the next child overwrites its output, which our op would save for backward.
    overwritten: bool = False


def pieces(modules: list[nn.Module], stacks: bool) -> Iterator[Piece]:
    """The pieces in which a Sequential of these modules runs. `fusion_report` uses them too."""
    i = 0
    while i < len(modules):
        act = _following_activation(modules, i)
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
    if i + 1 == len(modules) or not returns_fresh(modules[i]) or not bare(modules[i + 1]):
        return None
    return None if _output_is_overwritten(modules, i + 1) else activation_of(modules[i + 1])


def _output_is_overwritten(modules: list[nn.Module], i: int) -> bool:
    # PyTorch's leaky ReLU saves its input for the backward pass. Ours saves its output, which must not be overwritten.
    if i + 1 >= len(modules) or not getattr(modules[i + 1], "inplace", False):
        return False
    act = activation_of(modules[i])
    return act is not None and act.name == "leaky_relu" and not act.inplace and bare(modules[i])


def _stackable(module: nn.Module, act: Act) -> bool:
    return layer_type(module) is CONV2D and bare(module) and act.name in ("relu", "leaky_relu")


def _continues(modules: list[nn.Module], first: int, i: int, act: Act) -> bool:
    """Whether modules i and i + 1 are a block like the one at `first`."""
    if i + 1 >= len(modules) or not _stackable(modules[i], act):
        return False
    a: Any = modules[first]
    b: Any = modules[i]
    other = _following_activation(modules, i)
    same = other is not None and other[:2] == act[:2] and (a.bias is None) == (b.bias is None)
    return same and not why_not(b)


def run(modules: list[nn.Module], x: Any) -> Any:
    """The result of nn.Sequential of these modules."""
    # Without gradients a stack would only keep its inner results in memory for longer.
    for piece in pieces(modules, stacks=torch.is_grad_enabled()):
        first, *rest = piece.modules
        if piece.overwritten:
            x = nn.LeakyReLU.forward(first, x)  # type: ignore[arg-type]
        elif piece.act is None:
            x = first(x)
        elif piece.stack and CONV2D.takes(first, x):
            x = _stack(piece.modules[::2], piece.act, x)
        else:
            x = apply(rest[0], defer(first, x))
            for layer, act in zip(rest[1::2], rest[2::2], strict=True):
                x = apply(act, defer(layer, x))
    return x


def _stack(layers: tuple[Any, ...], act: Act, x: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        prepare(layer)
    blocks = [
        ConvLayer(layer.weight, bias_for(layer, x), layer.stride, layer.padding, layer.dilation, layer.groups)
        for layer in layers
    ]
    return conv2d_stack(x, blocks, act.name, alpha=act.alpha)


class Sequential(nn.Sequential):
    """nn.Sequential, run in pieces."""

    _fastgan_original = nn.Sequential

    def forward(self, input: Any) -> Any:
        return run(list(self), input)
