"""The times that the benchmarks print: of calls on a CPU; wall, host and graph time on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fastgan._util.cuda_device import CudaDevice
from fastgan._util.timing import Timing, alternate, replay_time, rounds_in, wall_and_host, watch


@dataclass(frozen=True)
class Times:
    """The times of one function.

    wall: of one call in a loop. host: until a call returns, with nothing queued before; None on a CPU, where it is the
    wall time. graph: of one replay as a CUDA graph; None without one. cache: what a replay finds in the L2 cache:
    "cleared", or "rotated" inputs, or "" without a graph.
    """

    wall: Timing
    host: Timing | None = None
    graph: Timing | None = None
    cache: str = ""


@dataclass(frozen=True)
class Graph:
    """A captured CUDA graph. sets: how many sets of inputs a replay goes through, 0 if the step holds its one set."""

    replay: Callable[[], object]
    sets: int = 0


def times(
    functions: Mapping[str, Callable[[], object]],
    device: str,
    seconds: float = 0.3,
    rounds: tuple[int, int] = (15, 200),
    graphs: Mapping[str, Graph] | None = None,
) -> dict[str, Times]:
    """The times of all functions, about `seconds` for each of them and each kind of time.

    device: "cpu" (alternating rounds, between `rounds[0]` and `rounds[1]` of them) or "cuda". graphs: on a GPU, the
    CUDA graph of each function that has one.
    """
    if device == "cpu":
        return {name: Times(timing) for name, timing in _in_rounds(functions, seconds, rounds).items()}
    gpu, captured = CudaDevice(), graphs or {}
    found = {}
    for name, (wall, host) in wall_and_host(functions, gpu, seconds).items():
        if name in captured:
            graph = replay_time(captured[name].replay, gpu, seconds, captured[name].sets)
            found[name] = Times(wall, host, graph, "rotated" if captured[name].sets else "cleared")
        else:
            found[name] = Times(wall, host)
    return found


def captured(builds: Sequence[Callable[[], Callable[[], object]]]) -> Graph:
    """The functions that `builds` return, one after another, as one CUDA graph.

    builds: one function, whose replays are timed with a cleared L2 cache, or one for each of several sets of inputs,
    which should be larger together than the L2 cache.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    # Build them on this stream too: a backward pass runs on the stream of its forward pass.
    with torch.cuda.stream(side):
        runs = [build() for build in builds]
        for _ in range(3):
            for run in runs:
                run()
    before = torch.cuda.current_stream()
    before.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=side):
            for run in runs:
                run()
    except BaseException:
        # If the capture fails, PyTorch leaves its stream the current one.
        torch.cuda.set_stream(before)
        raise

    def replay(kept: list[Callable[[], object]] = runs) -> None:
        graph.replay()

    return Graph(replay, len(runs) if len(runs) > 1 else 0)


def _in_rounds(
    functions: Mapping[str, Callable[[], object]], seconds: float, rounds: tuple[int, int]
) -> dict[str, Timing]:
    for function in functions.values():
        for _ in range(3):
            function()
    start = time.perf_counter()
    for function in functions.values():
        function()
    count = rounds_in(seconds * len(functions), time.perf_counter() - start, rounds)
    pending = alternate(functions, watch, count)
    return {name: Timing.of([read() for read in reads]) for name, reads in pending.items()}
