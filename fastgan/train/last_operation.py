"""Which squashing function a network ends in, whatever module, function or fused operation computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

#: What a squashing function's values lie in, where it is a range of images.
RANGES = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}

_aten: Any = torch.ops.aten
_SQUASHING = {
    _aten.sigmoid: "sigmoid", _aten.sigmoid_: "sigmoid", _aten.hardsigmoid: "sigmoid", _aten.hardsigmoid_: "sigmoid",
    _aten._softmax: "softmax", _aten.tanh: "tanh", _aten.tanh_: "tanh",
}  # fmt: skip
#: Operations after which values are still those of their input, or means of some: no squashed value leaves its range.
_KEEPING = {
    getattr(_aten, name)
    for name in (
        "view", "_unsafe_view", "_reshape_alias", "reshape", "squeeze", "unsqueeze", "expand", "permute", "transpose",
        "t", "select", "slice", "split", "split_with_sizes", "unbind", "clone", "alias", "detach", "_to_copy", "mean",
        "avg_pool2d", "_adaptive_avg_pool2d", "cat", "stack", "upsample_nearest2d",
    )
}  # fmt: skip


class LastOperation(TorchDispatchMode):
    """A context that notes what tensors computed in it come out of; `of(tensor)` says it: "sigmoid", ... or ""."""

    def __init__(self) -> None:
        super().__init__()
        self._names: Any = WeakIdKeyDictionary()

    def of(self, tensor: Tensor) -> str:
        return self._names.get(tensor, "")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = _squashing(func, args, kwargs)
        if not name and func.overloadpacket in _KEEPING:
            found = {self.of(value) for value in tree_leaves(args) if isinstance(value, Tensor)}
            name = found.pop() if len(found) == 1 else ""
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                if name:
                    self._names[value] = name
                else:
                    self._names.pop(value, None)
        return result


def _squashing(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    if name := _SQUASHING.get(func.overloadpacket):  # type: ignore[attr-defined]
        return name
    schema = func._schema  # type: ignore[attr-defined]
    if not schema.name.startswith("fastgan::"):
        return ""
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | dict(kwargs)
    act = given.get("act")
    return act if act in ("tanh", "sigmoid") and given.get("gain", 1.0) == 1.0 else ""
