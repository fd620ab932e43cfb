"""A layer whose bias, activation, gain and clamp a user's code still computes, as one op.

    out = F.leaky_relu(x + bias.view(1, -1, 1, 1), 0.2) * 2**0.5

With a `Pending` in place of x this computes nothing: it notes the bias, the activation and the gain, and `value` runs
all as one op, together with the layer whose output x is. The user's code runs as it is, with its own conditions; what a
`Pending` does not know makes the tensor first. Only code that `accepting.py` has looked through gets one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan.nn.fusion.supported import CONV_TRANSPOSE1D, CONV_TRANSPOSE2D, LINEAR, Act, Called, LayerType
from fastgan.nn.plain_tensor import is_plain_tensor
from fastgan.ops import bias_act

#: What code may read of a Pending.
ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "is_cuda"})
#: Methods of a Pending: name → whether the result is one.
METHODS = {"clamp": True, "dim": False, "size": False}


class Pending:
    """x, or layer(x), with a bias, an activation, a gain and a clamp that have not been computed yet."""

    __slots__ = ("_act", "_bias", "_kind", "_layer", "_value", "_x")
    #: A number of NumPy leaves the product with this class to this class.
    __array_ufunc__ = None

    def __init__(
        self, x: Tensor, layer: Called | None = None, kind: LayerType | None = None,
        bias: Tensor | None = None, act: Act | None = None,
    ):  # fmt: skip
        self._x, self._layer, self._kind, self._bias, self._act = x, layer, kind, bias, act
        self._value: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The tensor, computed once."""
        if self._value is None:
            self._value = self._run()
        return self._value

    def _run(self) -> Tensor:
        act = self._act or LINEAR
        if self._layer is not None and self._kind is not None:
            layer = self._layer if self._bias is None else self._layer._replace(bias=self._bias)
            return self._kind.block(layer, self._x, act)
        if self.is_input:
            return self._x
        return bias_act(self._x, self._bias, act.name, alpha=act.alpha, gain=act.gain, clamp=act.clamp)

    @property
    def is_input(self) -> bool:
        """Whether this is a tensor of the caller, with nothing to compute."""
        return self._layer is None and self._bias is None and self._act is None

    def activated(self, act: Act) -> Pending:
        """act of this."""
        return self._next(act=act) if self._act is None else Pending(self.value, act=act)

    def _next(self, bias: Tensor | None = None, act: Act | None = None) -> Pending:
        if self._value is not None:  # something has asked for the tensor before this step
            return Pending(self._value, bias=bias, act=act)
        return Pending(self._x, self._layer, self._kind, self._bias if bias is None else bias, act or self._act)

    def _plus(self, other: Any) -> Any:
        bias = self._each_channel(other)
        return self.value + made(other) if bias is None else self._next(bias)

    def _each_channel(self, other: Any) -> Tensor | None:
        """A tensor [1, C, 1, ...] that this may add as a bias, as [C]; None for anything else."""
        biased = self._bias is not None or (self._layer is not None and self._layer.bias is not None)
        if biased or self._act is not None or not is_plain_tensor(other):
            return None
        wide = [*[1] * (self.ndim - other.dim()), *other.shape]
        if wide != [1, self._channels, *[1] * (self.ndim - 2)]:
            return None
        return other.reshape(-1) if (other.dtype, other.device) == (self.dtype, self.device) else None

    def _times(self, factor: Any) -> Any:
        if self._may_follow(factor):
            assert self._act is not None
            return self._next(act=self._act._replace(gain=self._act.gain * float(factor)))
        return self.value * made(factor)

    def _may_follow(self, number: Any) -> bool:
        """Whether a gain or a clamp of that number may still become a part of the op."""
        usable = isinstance(number, int | float) and 0 < number < math.inf and self._value is None
        return usable and self._act is not None and self._act.clamp is None

    def __add__(self, other: Any) -> Any:
        return self._plus(other)

    def __radd__(self, other: Any) -> Any:
        return self._plus(other)

    def __mul__(self, other: Any) -> Any:
        return self._times(other)

    def __rmul__(self, other: Any) -> Any:
        return self._times(other)

    def __truediv__(self, other: Any) -> Any:
        return self._times(1 / other) if self._may_follow(other) else self.value / made(other)

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.value

    def clamp(self, min: Any = None, max: Any = None) -> Any:
        if isinstance(min, int | float) and self._may_follow(max) and min == -max:
            assert self._act is not None
            return self._next(act=self._act._replace(clamp=float(max)))
        return self.value.clamp(min, max)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is torch.clamp and args and isinstance(args[0], cls):
            return args[0].clamp(*args[1:], **kwargs or {})
        name = getattr(function, "__name__", "")
        if name in ("add", "__add__", "__radd__") and len(args) == 2 and not kwargs and isinstance(args[1], cls):
            return args[1]._plus(args[0])  # a tensor's own operator comes first
        return function(*map(made, args), **{name: made(value) for name, value in (kwargs or {}).items()})

    # --- what is known without the tensor ---

    def dim(self) -> int:
        return self._x.dim()

    def size(self, *dim: int) -> Any:
        return self.shape[dim[0]] if dim else self.shape

    @property
    def ndim(self) -> int:
        return self._x.dim()

    @property
    def dtype(self) -> torch.dtype:
        return self._x.dtype

    @property
    def device(self) -> torch.device:
        return self._x.device

    @property
    def is_cuda(self) -> bool:
        return self._x.is_cuda

    @property
    def shape(self) -> torch.Size:
        if self._layer is None:
            return self._x.shape
        if self._transposed:
            return self.value.shape
        sides = []
        for i, side in enumerate(self._x.shape[2:]):
            stride, padding, dilation = (n if isinstance(n, int) else n[i] for n in self._layer[2:5])
            sides.append((side + 2 * padding - dilation * (self._layer.weight.shape[2 + i] - 1) - 1) // stride + 1)
        return torch.Size([self._x.shape[0], self._channels, *sides])

    @property
    def _transposed(self) -> bool:
        return self._kind in (CONV_TRANSPOSE1D, CONV_TRANSPOSE2D)

    @property
    def _channels(self) -> int:
        if self._layer is None:
            return self._x.shape[1]
        weight = self._layer.weight
        return weight.shape[1] * self._layer.groups if self._transposed else weight.shape[0]


def made(value: Any) -> Any:
    """The tensor of a Pending; anything else as it is."""
    return value.value if isinstance(value, Pending) else value
