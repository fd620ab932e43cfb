"""What a step touches beside its arguments: weights, buffers, gradients, random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgan.ops._capture import before_capture


class Surroundings:
    """The tensors outside of a step that it reads or changes, found by running it once and undoing that run.

    tensors: in the order of first use. leaves: those among them whose `.grad` a backward pass inside the step fills.
    """

    def __init__(self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        seen = _Seen(given)
        before_capture()
        with torch.random.fork_rng(_devices(given)), seen:
            step(*args, **kwargs)
        before_capture()
        self.tensors = [tensor for tensor, _ in seen.outside]
        self.leaves = [t for t in self.tensors if id(t) in seen.gradients and t.grad is not seen.gradients[id(t)]]
        for leaf in self.leaves:
            leaf.grad = seen.gradients[id(leaf)]
        _restore(self.tensors, [held for _, held in seen.outside])

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Whatever changes inside, gradients included, is as before afterwards; inside no leaf has a gradient yet."""
        gradients = [leaf.grad for leaf in self.leaves]
        for leaf in self.leaves:
            leaf.grad = None
        try:
            with preserved(self.tensors):
                yield
        finally:
            for leaf, gradient in zip(self.leaves, gradients, strict=True):
                leaf.grad = gradient


@contextmanager
def preserved(tensors: list[Tensor]) -> Iterator[None]:
    """These tensors and the default random generators are afterwards as they were before."""
    held = [tensor.detach().clone() for tensor in tensors]
    before_capture()
    try:
        with torch.random.fork_rng(_devices(tensors)):
            yield
    finally:
        before_capture()
        _restore(tensors, held)


def _restore(tensors: list[Tensor], held: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, held, strict=True):
            tensor.copy_(value)


def _devices(tensors: list[Tensor]) -> list[int]:
    return sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})


class _Seen(TorchDispatchMode):
    """Collects the tensors that are read without having been made since, each with a copy of what it held."""

    def __init__(self, arguments: list[Tensor]):
        super().__init__()
        self._known = {id(tensor) for tensor in arguments}
        self._kept: list[Any] = list(arguments)  # a tensor that is gone would lend its id to another
        self.outside: list[tuple[Tensor, Tensor]] = []
        self.gradients: dict[int, Tensor | None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and id(tensor) not in self._known:
                self._note(tensor)
                self.outside.append((tensor, tensor.detach().clone()))
                if tensor.requires_grad and tensor.is_leaf:
                    self.gradients[id(tensor)] = tensor.grad
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        self._known.add(id(tensor))
        self._kept.append(tensor)
