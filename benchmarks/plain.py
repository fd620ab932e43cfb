"""fastgan's networks as plain PyTorch, the baseline of end_to_end.py.

Within `plain_pytorch()` the networks of fastgan.models are built and run from PyTorch's own convolutions, activations
(in place where the public code of these papers has them so) and spectral norms, and nothing of ours is in their graphs.
The state dicts are the same.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fastgan.models
import fastgan.nn
import fastgan.ops
from fastgan.nn.block import ConvBlock, ConvStack, LinearBlock

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "linear": lambda x, alpha, inplace: x,
    "relu": lambda x, alpha, inplace: F.relu(x, inplace),
    "leaky_relu": lambda x, alpha, inplace: F.leaky_relu(x, alpha, inplace),
    "tanh": lambda x, alpha, inplace: torch.tanh(x),
}


def _act(x: Tensor, act: str, alpha: float = 0.2, gain: float = 1.0, inplace: bool = True) -> Tensor:
    x = _ACTIVATIONS[act](x, alpha, inplace)
    return x if gain == 1 else x * gain


def _bias_act(x: Tensor, bias: Tensor | None = None, act: str = "leaky_relu", **options: Any) -> Tensor:
    # Not in place, since x may also be used by a skip connection.
    if bias is None:
        return _act(x, act, **options, inplace=False)
    return _act(x + bias.view(-1, *[1] * (x.dim() - 2)), act, **options)


def _conv2d(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return F.conv2d(x, weight, **options)


def _conv_transpose2d(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    return F.conv_transpose2d(x, weight, **options)


def _conv2d_bias_act(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, act: str = "leaky_relu", *,
    alpha: float = 0.2, gain: float = 1.0, **options: Any,
) -> Tensor:  # fmt: skip
    return _act(F.conv2d(x, weight, bias, **options), act, alpha, gain)


def _conv_block(self: ConvBlock, x: Tensor) -> Tensor:
    x = self.conv(x)
    return _act(x if self.norm is None else self.norm(x), self.act)


def _linear_block(self: LinearBlock, x: Tensor) -> Tensor:
    x = self.linear(x)
    return _act(x if self.norm is None else self.norm(x), self.act)


def _nothing(*args: Any, **options: Any) -> None:
    pass


#: Name in fastgan's modules → (fastgan's function, its replacement).
_FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "bias_act": (fastgan.ops.bias_act, _bias_act),
    "conv2d": (fastgan.ops.conv2d, _conv2d),
    "conv_transpose2d": (fastgan.ops.conv_transpose2d, _conv_transpose2d),
    "conv2d_bias_act": (fastgan.ops.conv2d_bias_act, _conv2d_bias_act),
    "spectral_norm": (fastgan.nn.spectral_norm, parametrizations.spectral_norm),
    "group_spectral_norms": (fastgan.nn.group_spectral_norms, _nothing),
    "initialize": (fastgan.nn.initialize, _nothing),  # weights come from a state dict
    "fuse": (fastgan.nn.fuse, lambda network: network),
}
_METHODS: list[tuple[type, Any]] = [
    (ConvBlock, _conv_block), (LinearBlock, _linear_block), (ConvStack, nn.Sequential.forward),
]  # fmt: skip


def _modules() -> list[Any]:
    names = [
        info.name
        for package in (fastgan.nn, fastgan.models)
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    ]
    return [importlib.import_module(name) for name in names]


_REPLACEMENTS = [
    (module, name, ours, plain)
    for module in _modules()
    for name, (ours, plain) in _FUNCTIONS.items()
    if getattr(module, name, None) is ours
]


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """A context in which networks are built from and run on PyTorch's layers."""
    kept = [(kind, kind.forward) for kind, _ in _METHODS]
    for module, name, _, plain in _REPLACEMENTS:
        setattr(module, name, plain)
    for kind, forward in _METHODS:
        kind.forward = forward  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, name, ours, _ in _REPLACEMENTS:
            setattr(module, name, ours)
        for kind, forward in kept:
            kind.forward = forward  # type: ignore[attr-defined]
