"""Runs a torch module on tensors without data: the shapes of its outputs and the memory that it would need."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastgan.runtime.spec import Spec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Blank:
    """A tensor without data."""

    shape: tuple[int, ...]
    integers: bool = False


def blanks(spec: Spec, shape: tuple[int, ...]) -> list[Blank]:
    """The inputs of a network: the first one of that shape, labels where it takes some, and controls."""
    labels = Blank(shape[:1], True) if not spec.label_vectors else Blank((shape[0], spec.classes))
    controls = [Blank((shape[0], *control.shape)) for control in spec.controls]
    return [Blank(shape), *[labels] * bool(spec.classes), *controls]


def dry_run(network: nn.Module, inputs: Sequence[Blank | None]) -> tuple[Any, int]:
    """network(*inputs) on fake tensors: the output, fake too, and the most bytes of inputs, activations and outputs
    that are alive at once. Weights do not count. Inputs are float32, or int64.

    Nothing is computed, and no memory is taken. Raises what the network raises, and PyTorch's errors where control flow
    depends on values.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), _quiet(), _restored(network), contextlib.ExitStack() as stack:
        stack.enter_context(fake)
        memory = stack.enter_context(_counting_mode())
        given = [x and torch.empty(x.shape, dtype=torch.int64 if x.integers else torch.float32) for x in inputs]
        return network(*given), memory.peak


@contextlib.contextmanager
def _restored(network: nn.Module) -> Iterator[None]:
    """Afterwards modules have the attributes and buffers of before: a forward() may store tensors in them."""
    tables = ("_parameters", "_buffers", "_modules")
    before = {m: ({**m.__dict__}, [{**m.__dict__[table]} for table in tables]) for m in network.modules()}
    try:
        yield
    finally:
        for module, (attributes, contents) in before.items():
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for table, content in zip(tables, contents, strict=True):
                module.__dict__[table].clear()
                module.__dict__[table].update(content)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the stacks that PyTorch logs for every shape that does not fit; the exception has the reason."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _counting_mode() -> Any:
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Memory(TorchDispatchMode):
        """Counts the bytes of storages that operators return."""

        def __init__(self) -> None:
            super().__init__()
            self.peak = 0
            self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            self.count(result)
            return result

        def count(self, tensors: Any) -> None:
            for leaf in tree_leaves(tensors):
                if hasattr(leaf, "untyped_storage"):
                    storage = leaf.untyped_storage()
                    reference = StorageWeakRef(storage)
                    self._alive[reference.cdata] = reference, storage.nbytes()
            self._alive = {key: pair for key, pair in self._alive.items() if not pair[0].expired()}
            self.peak = max(self.peak, sum(size for _, size in self._alive.values()))

    return Memory()
