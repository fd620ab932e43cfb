"""Timing of several functions in alternating rounds, so that a disturbance slows down all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fastgan._util.timing import alternate, quantile, rounds_in, watch


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median and the 20 % and 80 % quantiles."""

    median: float
    q20: float
    q80: float


class Clock:
    """Times one call. On a GPU by events, after clearing its L2 cache, without synchronizing."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.flush = torch.empty(256 * 2**20, dtype=torch.int8, device="cuda") if self.cuda else None

    def __call__(self, function: Callable[[], object]) -> Callable[[], float]:
        """Run function. Returns a function that, called after all runs, returns its milliseconds."""
        if self.flush is None:
            return watch(function)
        self.flush.zero_()
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        function()
        after.record()
        return lambda: before.elapsed_time(after)


def side_by_side(
    functions: Mapping[str, Callable[[], object]],
    device: str,
    seconds: float = 0.3,
    rounds: tuple[int, int] = (15, 200),
) -> dict[str, Timing]:
    """Time all functions in alternating rounds, about `seconds` for each of them."""
    clock = Clock(device)
    for function in functions.values():
        for _ in range(3):
            function()
    start = time.perf_counter()
    for function in functions.values():
        function()
    _wait(device)
    count = rounds_in(seconds * len(functions), time.perf_counter() - start, rounds)
    pending = alternate(functions, clock, count)
    _wait(device)
    return {name: _quantiles([read() for read in reads]) for name, reads in pending.items()}


def recorded(build: Callable[[], Callable[[], object]]) -> Callable[[], None]:
    """The function that `build` returns, as a CUDA graph, without the cost of Python and launches."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    # Build it on this stream too: a backward pass runs on the stream of its forward pass.
    with torch.cuda.stream(side):
        run = build()
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        run()

    def replay(kept: Callable[[], object] = run) -> None:
        graph.replay()

    return replay


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _quantiles(times: list[float]) -> Timing:
    return Timing(*(quantile(times, share) for share in (0.5, 0.2, 0.8)))
