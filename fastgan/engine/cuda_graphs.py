"""Steps as CUDA graphs: one launch for all kernels of a step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastgan.engine.capture import ExternalState
from fastgan.engine.host_state import HostState, Unfollowable
from fastgan.ops._capture import before_capture

R = TypeVar("R")
WARM_UPS = 3
#: Captures of a function with permanent effects that are discarded because a value in Python has changed.
MAX_CHANGES = 3


class CudaGraph:
    """A step captured as a CUDA graph. A call replays it.

    Arguments are copied into the tensors of the capture, and results are copied out, so that the next replay does not
    change them. Each replay draws random numbers from the default generator, as an eager run does.
    """

    def __init__(self, run: Callable[..., Any], state: ExternalState, args: Any, kwargs: Any):
        flat, self._spec = tree_flatten((args, kwargs))
        # A tensor that is given twice stays one tensor: two would be compiled anew.
        static = {id(t): t.detach().clone().requires_grad_(t.requires_grad) for t in flat if isinstance(t, Tensor)}
        self._flat = [static.get(id(value), value) for value in flat]
        self._cuda_indices = [i for i, value in enumerate(flat) if isinstance(value, Tensor) and value.is_cuda]
        self._state = state
        tensors = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]
        self._changed = [tensors[i] for i in state.changed]
        static_args, static_kwargs = tree_unflatten(self._flat, self._spec)
        self._device = next(self._flat[i].device for i in self._cuda_indices)
        with state.restored(), torch.cuda.device(self._device):
            for _ in range(WARM_UPS):
                before_capture()
                with _side_stream(self._device):
                    run(*static_args, **static_kwargs)
                self._clear_grads()
            before_capture()
            self._graph, result = recorded(self._device, lambda: run(*static_args, **static_kwargs))
            self._gradients = [leaf.grad for leaf in state.leaves]
        self._outputs, self._shape = tree_flatten(result)

    @classmethod
    def captured(
        cls,
        state: ExternalState,
        compiler: Callable[[Any, Any], tuple[Callable[..., R], R]],
        args: Any,
        kwargs: Any,
    ) -> tuple[Callable[..., R], R]:
        """Compile the step, capture it, and replay it for the first time."""
        with state.restored():
            run, _ = compiler(args, kwargs)
        graph = cls(run, state, args, kwargs)
        return graph, graph(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        flat, _ = tree_flatten((args, kwargs))
        with torch.no_grad(), torch.cuda.device(self._device):
            torch._foreach_copy_([self._flat[i] for i in self._cuda_indices], [flat[i] for i in self._cuda_indices])
            self._graph.replay()
            # The graph changes its own tensors in place; copy them to the caller's.
            if self._changed:
                torch._foreach_copy_([flat[i] for i in self._changed], [self._flat[i] for i in self._changed])
            kept = [t for t in [*self._outputs, *self._gradients] if isinstance(t, Tensor)]
            copies = [torch.empty_like(t) for t in kept]
            if kept:
                torch._foreach_copy_(copies, kept)
        fresh = dict(zip(map(id, kept), copies, strict=True))
        self._state.add([None if gradient is None else fresh[id(gradient)] for gradient in self._gradients])
        return tree_unflatten([fresh.get(id(t), t) for t in self._outputs], self._shape)

    def _clear_grads(self) -> None:
        for leaf in self._state.leaves:
            leaf.grad = None


class CaptureError(RuntimeError):
    """A function cannot be captured as a CUDA graph; the text is the first line of the reason."""


class Recorder:
    """Runs a function with permanent effects, such as an optimizer step: first directly, then as a CUDA graph.

    Nothing is run twice or undone. The graph is valid while the key stays the same, and what the user's functions and
    modules in it take from Python; a change starts anew. pool: called at the first capture, gives the memory pool to
    capture in; several recorders may share one, since results are copied out of it after each replay.
    """

    def __init__(self, pool: Callable[[], Any] = lambda: None) -> None:
        self._pool = pool
        self._key: Hashable = None
        self._runs = 0
        self._valid = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: list[Tensor] = []
        self._result = torch.empty(())
        self._full = False
        self._host: HostState | None = None
        self._changes = 0

    @property
    def replays(self) -> bool:
        """Whether the last run was a replay, in which no Python code ran."""
        return self._valid and self._runs > WARM_UPS + 1

    @property
    def full(self) -> bool:
        """Whether memory ran out in a capture, after which every run is direct."""
        return self._full

    def __call__(self, key: Hashable, run: Callable[[list[Tensor]], Tensor], given: list[Tensor]) -> Tensor:
        """run(given). key: everything else that it depends on: shapes, Python numbers, addresses of tensors.

        Raises CaptureError where the capture fails, and where values in Python change again and again; then `run` has
        had no effect on tensors.
        """
        if self._valid and self._host is not None and not self._host.unchanged:
            self._changes += 1
            if self._changes == MAX_CHANGES:
                raise CaptureError(f"it takes from Python what changes: {self._host.difference()}")
            self._key = None
        if key != self._key:
            # The old graph stays until there is a new one: a memory pool ends with its last graph.
            self._key, self._runs, self._valid = key, 0, False
        self._runs += 1
        device = given[0].device
        if self._runs == WARM_UPS + 1 and not self._full:
            try:
                self._record(device, run, given)
            except torch.OutOfMemoryError:
                self._full, self._given = True, []  # the captured function has not run yet
            except Exception as error:  # whatever a capture does not allow
                raise CaptureError(str(error).strip().splitlines()[0] if str(error) else repr(error)) from error
        if not self._valid or self._graph is None:
            return run(given)
        with torch.cuda.device(device):
            torch._foreach_copy_(self._given, given)
            self._graph.replay()
            return self._result.clone()

    def _record(self, device: torch.device, run: Callable[[list[Tensor]], Tensor], given: list[Tensor]) -> None:
        with torch.cuda.device(device):
            self._given = [torch.empty_like(t) for t in given]
            host = HostState(None)

            def watched() -> Tensor:
                with host.watched():
                    result = run(self._given)
                if host.changed:
                    raise Unfollowable(host.changed)
                return result

            self._graph, self._result = recorded(device, watched, self._pool())
            self._host, self._valid = host, True


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a device for captures, since cuBLAS and cuDNN allocate a workspace for each stream."""
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """A context whose work runs on the capture stream, after all earlier work of the current stream."""
    _stream(device).wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(_stream(device)):
            yield
    finally:
        torch.cuda.current_stream(device).wait_stream(_stream(device))


@contextlib.contextmanager
def own_casts() -> Iterator[None]:
    """A context that neither takes weights that autocast has cast before nor leaves those that it casts.

    Autocast keeps the cast weights of a `with` block. A graph must contain the casts, for the weights of each replay,
    and later code must not read casts in the graph's memory.
    """
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()


def recorded(device: torch.device, run: Callable[[], R], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, R]:
    """A CUDA graph of what `run` launches, and what `run` returned. pool: of memory, one of its own if None."""
    graph, before, index = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device), torch.cuda.current_device()
    try:
        # thread_local: other threads, such as a data loader's, may copy meanwhile.
        with own_casts(), torch.cuda.graph(graph, pool, _stream(device), "thread_local"):
            result = run()
    except BaseException:
        # If the capture fails, PyTorch leaves its stream the current one.
        torch.cuda.set_stream(before)
        torch.cuda.set_device(index)
        raise
    return graph, result
