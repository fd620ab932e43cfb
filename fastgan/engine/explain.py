"""`fastgan.explain`: measures what compiling a step changes: time, launches, convolution passes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastgan.engine.capture import ExternalState
from fastgan.engine.compile import CompiledStep
from fastgan.engine.counts import Counts, launches
from fastgan.engine.loss_graph import reasons

_ROUNDS = 5


@dataclass(frozen=True)
class Explanation:
    """The measurements of a step; `print` shows them.

    how: how it was captured, or why it runs eagerly. nodes: operations in the graph after our passes. passes_eager,
    passes_before, passes_after: convolutions of an eager run, and of the graph before and after our passes.
    launches_eager, launches: of kernels on a GPU, else None. eager_ms, compiled_ms: medians of alternating runs.
    compile_s: seconds to capture and compile. losses: for each penalty that the eager step runs, why it is not replayed
    as a CUDA graph of its own, or "" where it is (fastgan/engine/loss_graph.py).
    """

    how: str
    nodes: int
    passes_eager: int
    passes_before: int
    passes_after: int
    launches_eager: int | None
    launches: int | None
    eager_ms: float
    compiled_ms: float
    compile_s: float
    losses: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"captured by            {self.how}",
            f"operations in graph    {self.nodes}",
            f"convolution passes     {self.passes_eager} eagerly, {self.passes_before} captured,"
            f" {self.passes_after} after removing zeros",
        ]
        if self.launches is not None:
            lines.append(f"launches               {self.launches_eager} eagerly, {self.launches} compiled")
        lines += [
            f"time                   {self.eager_ms:.2f} ms eagerly, {self.compiled_ms:.2f} ms compiled:"
            f" {self.eager_ms / self.compiled_ms:.2f} times as fast",
            f"compiling              {self.compile_s:.1f} s",
        ]
        lines += [f"{name:<22} {reason or 'one CUDA graph'}" for name, reason in self.losses.items()]
        return "\n".join(lines)


def explain(
    step: Callable[..., Any], *args: Any, mode: str = "default", cuda_graph: bool | str = "auto"
) -> Explanation:
    """Compile a step anew and compare it with eager runs. All state that the step changes is restored.

    step, mode, cuda_graph: as in `fastgan.compile`. args: as the step is called.
    """
    import torch._inductor.config

    state = ExternalState(step, args, {}, refuse=False)
    compiled = CompiledStep(step, mode, cuda_graph)
    compiled._warned = True  # `how` says it
    with state.restored(), torch._inductor.config.patch(fx_graph_cache=False):
        compiled(*args)
    with state.restored():
        with Counts() as eager:
            step(*args)
        counted = [_launches(run, args) for run in (step, compiled)]
        pairs = [(_time(step, args), _time(compiled, args)) for _ in range(_ROUNDS + 1)][1:]
    passes = compiled.passes
    captured = passes.ran and not compiled.why_eager
    return Explanation(
        how=f"not captured: {compiled.why_eager}" if compiled.why_eager else compiled.how[-1],
        nodes=passes.nodes if captured else 0,
        passes_eager=eager.passes,
        passes_before=passes.before if captured else eager.passes,
        passes_after=passes.after if captured else eager.passes,
        launches_eager=counted[0],
        launches=counted[1],
        eager_ms=1000 * statistics.median(a for a, _ in pairs),
        compiled_ms=1000 * statistics.median(b for _, b in pairs),
        compile_s=compiled.seconds,
        losses={
            f"{name} of {type(network).__name__}": reason
            for network in state.modules
            for name, reason in reasons(network).items()
        },
    )


def _on_gpu(args: Any) -> bool:
    return any(isinstance(value, Tensor) and value.is_cuda for value in tree_leaves(args))


def _launches(run: Callable[..., Any], args: Any) -> int | None:
    return launches(lambda: run(*args)) if _on_gpu(args) else None


def _time(run: Callable[..., Any], args: Any) -> float:
    start = time.perf_counter()
    run(*args)
    if _on_gpu(args):
        torch.cuda.synchronize()
    return time.perf_counter() - start
