"""A step as a CUDA graph: one launch for all of its kernels."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastgan.engine.capture import ExternalState
from fastgan.ops._capture import before_capture

R = TypeVar("R")
WARM_UPS = 3


class CudaGraph:
    """Replays a captured step.

    Arguments are copied into the tensors that it was captured with; results are copied out, so that the next replay
    does not change them. Random numbers go on from the default generator's state at each replay.
    """

    def __init__(self, run: Callable[..., Any], around: ExternalState, args: Any, kwargs: Any):
        flat, self._spec = tree_flatten((args, kwargs))
        # One that is given twice is one here too: else it would be compiled anew, for two.
        mine = {id(t): t.detach().clone().requires_grad_(t.requires_grad) for t in flat if isinstance(t, Tensor)}
        self._flat = [mine.get(id(value), value) for value in flat]
        self._places = [i for i, value in enumerate(flat) if isinstance(value, Tensor) and value.is_cuda]
        self._around = around
        tensors = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]
        self._changed = [tensors[i] for i in around.changed]
        static_args, static_kwargs = tree_unflatten(self._flat, self._spec)
        self._device = next(self._flat[i].device for i in self._places)
        with around.restored(), torch.cuda.device(self._device):
            for _ in range(WARM_UPS):
                before_capture()
                with _beside(self._device):
                    run(*static_args, **static_kwargs)
                self._forget()
            before_capture()
            self._graph, result = _recorded(self._device, lambda: run(*static_args, **static_kwargs))
            self._gradients = [leaf.grad for leaf in around.leaves]
        self._outputs, self._shape = tree_flatten(result)

    @classmethod
    def captured(
        cls,
        around: ExternalState,
        compiler: Callable[[Any, Any], tuple[Callable[..., R], R]],
        args: Any,
        kwargs: Any,
    ) -> tuple[Callable[..., R], R]:
        """Compile, capture, and replay for the first time."""
        with around.restored():
            run, _ = compiler(args, kwargs)
        graph = cls(run, around, args, kwargs)
        return graph, graph(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        flat, _ = tree_flatten((args, kwargs))
        with torch.no_grad(), torch.cuda.device(self._device):
            torch._foreach_copy_([self._flat[i] for i in self._places], [flat[i] for i in self._places])
            self._graph.replay()
            # What the step changes in place are our tensors, not the caller's.
            if self._changed:
                torch._foreach_copy_([flat[i] for i in self._changed], [self._flat[i] for i in self._changed])
            kept = [t for t in [*self._outputs, *self._gradients] if isinstance(t, Tensor)]
            copies = [torch.empty_like(t) for t in kept]
            if kept:
                torch._foreach_copy_(copies, kept)
        fresh = dict(zip(map(id, kept), copies, strict=True))
        self._around.add([None if gradient is None else fresh[id(gradient)] for gradient in self._gradients])
        return tree_unflatten([fresh.get(id(t), t) for t in self._outputs], self._shape)

    def _forget(self) -> None:
        for leaf in self._around.leaves:
            leaf.grad = None


class Recorder:
    """Runs what changes tensors on a GPU for good, an optimizer's step, say: as it is at first, then as a CUDA graph.

    Nothing is run twice or undone. A graph holds for as long as the key stays the same; with another, it starts anew.
    """

    def __init__(self) -> None:
        self._key: Hashable = None
        self._runs = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: list[Tensor] = []
        self._result = torch.empty(())
        self._full = False

    @property
    def replays(self) -> bool:
        """Whether the last run was a replay, of which Python saw nothing."""
        return self._graph is not None and self._runs > WARM_UPS + 1

    def __call__(self, key: Hashable, run: Callable[[list[Tensor]], Tensor], given: list[Tensor]) -> Tensor:
        """run(given). key: whatever else it depends on: shapes, numbers of Python's, where tensors lie."""
        if key != self._key:
            self._key, self._runs, self._graph = key, 0, None
        self._runs += 1
        device = given[0].device
        if self._runs == WARM_UPS + 1 and not self._full:
            try:
                self._record(device, run, given)
            except torch.OutOfMemoryError:
                self._full, self._given = True, []  # nothing has run yet
        if self._graph is None:
            return run(given)
        with torch.cuda.device(device):
            torch._foreach_copy_(self._given, given)
            self._graph.replay()
            return self._result.clone()

    def _record(self, device: torch.device, run: Callable[[list[Tensor]], Tensor], given: list[Tensor]) -> None:
        with torch.cuda.device(device):
            self._given = [torch.empty_like(t) for t in given]
            self._graph, self._result = _recorded(device, lambda: run(self._given))


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """On which all is recorded there: each stream costs the libraries a workspace."""
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """What runs inside runs on that stream, between what came before and what comes after."""
    _stream(device).wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(_stream(device)):
            yield
    finally:
        torch.cuda.current_stream(device).wait_stream(_stream(device))


def _recorded(device: torch.device, run: Callable[[], R]) -> tuple[torch.cuda.CUDAGraph, R]:
    """A graph of what `run` launches, and what it returned."""
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        # Other threads may copy meanwhile: a loader's batches.
        with torch.cuda.graph(graph, stream=_stream(device), capture_error_mode="thread_local"):
            result = run()
    except BaseException:
        # Where the recording itself fails, PyTorch leaves its stream the current one.
        torch.cuda.set_stream(before)
        raise
    return graph, result
