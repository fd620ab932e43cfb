"""OpRecorder: records the operators that run below autograd, in order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ZEROS = ("zeros", "zeros_like", "new_zeros", "_efficientzerotensor", "zero_")
_FILLS = ("full", "full_like", "new_full", "fill_")


@dataclass(frozen=True)
class Call:
    """One call of an operator, with what it returned."""

    overload: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    @property
    def name(self) -> str:
        """The name without namespace and overload."""
        return self.overload._schema.name.split("::")[1]

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors that it returned."""
        return [leaf for leaf in tree_leaves(self.result) if isinstance(leaf, Tensor)]


class OpRecorder(TorchDispatchMode):
    """`with OpRecorder() as calls:` records every operator that runs, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append(Call(func, args, kwargs or {}, result))
        return result

    def of(self, namespace: str) -> list[Call]:
        """The calls of one namespace."""
        return [call for call in self.calls if call.overload.namespace == namespace]

    def counts(self, namespace: str = "fastgan") -> dict[str, int]:
        """How often each op of a namespace ran."""
        return dict(Counter(call.name for call in self.of(namespace)))

    def zeros(self, numel: int) -> list[Call]:
        """The calls that created a tensor of zeros with at least that many elements."""
        return [
            call
            for call in self.calls
            if (call.name in _ZEROS or (call.name in _FILLS and 0 in [a for a in call.args if not _is_size(a)]))
            and any(out.numel() >= numel for out in call.outputs)
        ]


def _is_size(argument: Any) -> bool:
    return isinstance(argument, list | tuple | Tensor)
