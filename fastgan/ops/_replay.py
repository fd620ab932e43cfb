"""The time of a GPU kernel as it runs in a CUDA graph: launches cost no host time, and caches are not warm for free."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.errors import first_line

Tensors = tuple[Tensor | None, ...]

_LEAST_RUNS, _MOST_RUNS, _ROUNDS = 10, 32, 7


class Uncapturable(Exception):
    """A run that cannot become part of a CUDA graph."""


def milliseconds(run: Callable[..., Any], tensors: Tensors) -> float:
    """The GPU time of one run on the current device: the median of replays of a graph of many runs, per run.

    The runs of a graph take turns with copies of the tensors that together exceed the L2 cache (up to 32 copies), and
    as many results are kept, so that a run finds in the cache only what a run of that size leaves there. The capture
    is limited to this thread: other threads may use the device meanwhile.

    Raises Uncapturable, or what a run raises outside of a graph.
    """
    l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    copies = rotated(tensors, copies_beyond(tensors, l2))
    current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(current)
    runs = max(_LEAST_RUNS, len(copies))
    with torch.cuda.stream(stream):
        for one in (copies[0], copies[-1]):  # libraries measure and allocate at the first use of a stream or alignment
            run(*one)
        graph = torch.cuda.CUDAGraph()
        results: list[Any] = [None] * len(copies)
        try:
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for i in range(runs):
                    results[i % len(copies)] = run(*copies[i % len(copies)])
            finally:
                graph.capture_end()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise Uncapturable(f"it cannot be captured in a graph: {first_line(error)}") from error
        graph.replay()
        times = []
        for _ in range(_ROUNDS):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            graph.replay()
            after.record()
            after.synchronize()
            times.append(before.elapsed_time(after) / runs)
    current.wait_stream(stream)
    return statistics.median(times)


def copies_beyond(tensors: Tensors, cache: int) -> int:
    """How many copies of the tensors exceed a cache of that many bytes, 1 to 32."""
    size = sum(t.numel() * t.element_size() for t in tensors if t is not None)
    return min(_MOST_RUNS, max(1, math.ceil((cache + 1) / max(1, size))))


def rotated(tensors: Tensors, count: int) -> Sequence[Tensors]:
    """`count` sets of the tensors, the first of which is theirs and the others copies; fewer if memory runs out."""
    sets = [tensors]
    try:
        with torch.no_grad():
            while len(sets) < count:
                sets.append(tuple(None if t is None else t.clone() for t in tensors))
    except torch.OutOfMemoryError:
        pass  # the cache is then warmer than it should be
    return sets
