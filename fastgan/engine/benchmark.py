"""`fastgan.benchmark`: times a step eagerly, with torch.compile, with fastgan.compile and as a CUDA graph."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan._util.cuda_device import CudaDevice
from fastgan._util.timing import Timing, alternate, replay_time, rounds_in, wall_and_host, watch
from fastgan.engine.benchmark_result import Benchmark, Contestant
from fastgan.engine.compile import CompiledStep, _sentence
from fastgan.engine.counts import Counts, launches
from fastgan.engine.cuda_graphs import WARM_UPS, CudaGraph, _side_stream, recorded
from fastgan.engine.dynamo import quiet
from fastgan.engine.step_state import Results, StepState
from fastgan.errors import UsageError
from fastgan.ops._capture import before_capture

#: Largest relative error of a contestant's results against the eager step's. In float32 a pre-activation within
#: rounding of zero can fall on the other side of an activation's kink, and products on a GPU may be in TF32.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 5e-2}


@dataclass
class _Ready:
    """A contestant that runs. replay: its CUDA graph."""

    run: Callable[[], Any]
    replay: Callable[[], object] | None = None
    passes: int | None = None
    note: str = ""


class _Excluded(Exception):
    """Why a contestant is not timed."""


def benchmark(step: Callable[..., Any], *args: Any, seconds: float = 1.0) -> Benchmark:
    """Time a step in eager PyTorch, with `torch.compile`, with `fastgan.compile` and as a CUDA graph of the eager step.

    step: a function that returns tensors (in tuples, lists or dicts) and may fill `.grad` and call optimizers. args: as
    it is called; on a GPU, tensors of one GPU. seconds: of timing, for each contestant and each kind of time.

    Every contestant starts from the same weights and seeds. What it returns, the gradients and the changed weights and
    buffers must be those of the eager step within rounding (relative L2 error 1e-2 in float32, 5e-2 in bfloat16); one
    that differs, raises, or runs eagerly after all is listed with the reason, without times. The state of modules and
    optimizers is as before afterwards; optimizers are timed with a state of at least one step. Compile times are not in
    the figures.

    Raises UsageError for a step that cannot be called or that is compiled already, and what the eager step raises.
    """
    if isinstance(step, CompiledStep):
        raise UsageError("step: expected the function itself, which is compiled here, got fastgan.compile's result")
    if not callable(step):
        raise UsageError(f"step: expected a function of tensors, got {type(step).__name__}")
    if not seconds > 0:
        raise UsageError(f"seconds: expected a number > 0, got {seconds}")
    state = StepState(step, args)
    with state.held():
        cuda = any(tensor.is_cuda for tensor in state.tensors)
        eager = functools.partial(step, *args)
        counts = Counts()

        def counted() -> Any:
            with counts:
                return eager()

        expected = state.results(counted)
        found = [Contestant("eager", passes=counts.passes, operations=None if cuda else counts.operations)]
        ready = {"eager": _Ready(eager)}
        if cuda:
            found[0] = _on_gpu(found[0], ready["eager"], state)
        for name, build in _contestants(step, args, state, cuda).items():
            try:
                with quiet(), warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    contestant, one = _checked(name, build, state, expected, cuda)
            except Exception as error:
                reason = str(error) if isinstance(error, _Excluded) else f"raises {_sentence(error)}"
                found.append(Contestant(name, reason=reason))
                continue
            ready[name] = one
            found.append(contestant)
        graph = ready.get("CUDA graph")
        ready["eager"].replay = graph.replay if graph else None
        state.begin()
        timed = _times(ready, seconds, cuda)
    device = torch.cuda.get_device_name() if cuda else "CPU"
    rows = [one.with_times(*timed[one.name]) if one.name in timed else one for one in found]
    return Benchmark(getattr(step, "__name__", type(step).__name__), device, tuple(rows))


def _contestants(
    step: Callable[..., Any], args: tuple[Any, ...], state: StepState, cuda: bool
) -> dict[str, Callable[[], _Ready]]:
    """By name, a function that compiles or captures the step."""
    found: dict[str, Callable[[], _Ready]] = {
        "torch.compile": functools.partial(_torch_compile, step, args),
        "fastgan.compile": functools.partial(_fastgan_compile, step, args),
    }
    if cuda:
        found["CUDA graph"] = functools.partial(_cuda_graph, step, args, state)
    return found


def _checked(
    name: str, build: Callable[[], _Ready], state: StepState, expected: Results, cuda: bool
) -> tuple[Contestant, _Ready]:
    """A contestant whose results are the eager step's. Raises _Excluded, or what it raises itself."""
    state.begin()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    one = build()
    found = Contestant(name, passes=one.passes, note=one.note)
    if cuda and name == "CUDA graph":
        # A replay allocates nothing: its memory is that of the capture.
        found = found.with_memory(torch.cuda.max_memory_allocated() - before)
    if wrong := difference(state.results(one.run), expected):
        raise _Excluded(wrong)
    return (_on_gpu(found, one, state) if cuda else found), one


def _on_gpu(found: Contestant, one: _Ready, state: StepState) -> Contestant:
    """The contestant with its launches and peak memory."""
    if found.memory is None:
        state.begin()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one.run()
        torch.cuda.synchronize()
        found = found.with_memory(torch.cuda.max_memory_allocated() - before)
    return found.with_launches(launches(one.run))


def _torch_compile(step: Callable[..., Any], args: tuple[Any, ...]) -> _Ready:
    from torch._dynamo.utils import counters

    compiled, before = torch.compile(step), counters["stats"]["unique_graphs"]
    compiled(*args)
    graphs = counters["stats"]["unique_graphs"] - before
    if not graphs:
        raise _Excluded("runs eagerly: no part of it was compiled")
    return _Ready(functools.partial(compiled, *args), note="" if graphs == 1 else f"in {graphs} graphs")


def _fastgan_compile(step: Callable[..., Any], args: tuple[Any, ...]) -> _Ready:
    import torch._inductor.config

    compiled: CompiledStep[..., Any] = CompiledStep(step)
    # Passes are counted as the graph is compiled; one from Inductor's cache is not.
    with torch._inductor.config.patch(fx_graph_cache=False):
        compiled(*args)
    if compiled.why_eager:
        raise _Excluded(f"runs eagerly: {compiled.why_eager}")
    graphs = [one.run for variants in compiled._variants.values() for one in variants if isinstance(one.run, CudaGraph)]
    replay = graphs[0]._graph.replay if graphs else None
    passes = compiled.passes.after if compiled.passes.ran else None
    return _Ready(functools.partial(compiled, *args), replay, passes, compiled.how[-1])


def _cuda_graph(step: Callable[..., Any], args: tuple[Any, ...], state: StepState) -> _Ready:
    if why := state.why_not_captured():
        raise _Excluded(f"cannot be captured: {why}")
    device = next(tensor.device for tensor in state.tensors if tensor.is_cuda)
    for _ in range(WARM_UPS):
        state.begin()
        with _side_stream(device):
            step(*args)
    state.begin()
    before_capture()
    graph, returned = recorded(device, lambda: step(*args))
    leaves = [(leaf, leaf.grad) for leaf in state.leaves]

    def run() -> Any:
        graph.replay()
        for leaf, gradient in leaves:
            leaf.grad = gradient
        return returned

    return _Ready(run, graph.replay)


def difference(got: Results, expected: Results) -> str:
    """How results differ from the eager step's by more than rounding, or "".

    The scale of an error is the norm of the expected tensor, or a thousandth of the largest of its kind: the sums of a
    bias gradient may cancel.
    """
    for kind in ("returned", "gradients", "changed"):
        ours, theirs = getattr(got, kind), getattr(expected, kind)
        what = {"returned": "results", "gradients": "gradients", "changed": "changed weights or buffers"}[kind]
        if [_form(t) for t in ours] != [_form(t) for t in theirs]:
            return f"differs from eager: its {what} have another number, shape or dtype"
        pairs = [(g, e) for g, e in zip(ours, theirs, strict=True) if e is not None]
        largest = max((_norm(e) for _, e in pairs), default=0.0)
        for g, e in pairs:
            if not torch.equal(g.isfinite(), e.isfinite()):
                return f"differs from eager: NaN or infinity in its {what}"
            error, scale = _norm(g - e), max(_norm(e), 1e-3 * largest)
            if error > TOLERANCE.get(e.dtype, 0.0) * scale:
                shown = error / scale if scale else math.inf
                return f"differs from eager: relative error {shown:.1e} in its {what}"
    return ""


def _form(tensor: Tensor | None) -> tuple[Any, ...] | None:
    return None if tensor is None else (tensor.shape, tensor.dtype)


def _norm(tensor: Tensor) -> float:
    """The L2 norm of the finite values."""
    return float(tensor[tensor.isfinite()].double().norm())


def _times(
    ready: dict[str, _Ready], seconds: float, cuda: bool
) -> dict[str, tuple[Timing, Timing | None, Timing | None]]:
    """(wall, host, graph) by contestant. A call on a CPU has one time."""
    runs = {name: one.run for name, one in ready.items()}
    with _without_warnings():
        if cuda:
            device = CudaDevice()
            timed = wall_and_host(runs, device, seconds)
            graphs = {n: replay_time(one.replay, device, seconds) for n, one in ready.items() if one.replay}
            return {name: (wall, host, graphs.get(name)) for name, (wall, host) in timed.items()}
        each = sum(watch(run)() for _ in range(2) for run in runs.values()) / 2e3
        reads = alternate(runs, watch, rounds_in(seconds * len(runs), each, (5, 1000)))
    return {name: (Timing.of([read() for read in found]), None, None) for name, found in reads.items()}


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
