"""Timing of several functions, so that a disturbance slows down all of them. Imports no torch.

On a CPU a call has finished when it returns: `alternate`. A GPU works through a queue while the host goes on, and has
three figures: wall time and host time (`wall_and_host`) and the time of a replayed graph (`replay_time`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

#: Runs a function once and returns a function; that one, called after all runs, returns the milliseconds it took.
Clock = Callable[[Callable[[], object]], Callable[[], float]]

#: Blocks of calls that each function is timed in.
BLOCKS = 5
#: The fewest and the most calls in a block. Wall time includes the wait at the end of a block once.
CALLS = (10, 2000)
#: Calls with an empty queue for each block, for host time.
HOST_CALLS = 3


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median and the 20 % and 80 % quantiles."""

    median: float
    q20: float
    q80: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Timing:
        """The quantiles of measured milliseconds."""
        return cls(*(quantile(times, share) for share in (0.5, 0.2, 0.8)))


class Device(Protocol):
    """A device that works through a queue of launches while the host goes on."""

    def now(self) -> float:
        """Seconds on the host's clock."""

    def synchronize(self) -> None:
        """Wait until the queue is empty."""

    def clear_cache(self) -> None:
        """Enqueue work that removes everything from the device's cache."""

    def mark(self) -> Any:
        """Enqueue a mark, an event."""

    def between(self, first: Any, last: Any) -> float:
        """Milliseconds on the device between two marks that it has passed."""


def watch(function: Callable[[], object]) -> Callable[[], float]:
    """Wall-clock time, for functions that return when they have finished."""
    start = time.perf_counter()
    function()
    took = (time.perf_counter() - start) * 1e3
    return lambda: took


def rounds_in(seconds: float, per_round: float, limits: tuple[int, int]) -> int:
    """How many rounds of `per_round` seconds fit into `seconds`, limited to (least, most)."""
    least, most = limits
    return int(min(most, max(least, seconds / max(per_round, 1e-9))))


def alternate(
    functions: Mapping[str, Callable[[], object]], clock: Clock, rounds: int
) -> dict[str, list[Callable[[], float]]]:
    """Run each function once a round. Returns for each name the reads of its times, one a round."""
    pending: dict[str, list[Callable[[], float]]] = {name: [] for name in functions}
    for names in _orders(list(functions), rounds):
        for name in names:
            pending[name].append(clock(functions[name]))
    return pending


def wall_and_host(
    functions: Mapping[str, Callable[[], object]], device: Device, seconds: float
) -> dict[str, tuple[Timing, Timing]]:
    """(wall, host) of one call of each function, about `seconds` of calls for each.

    wall: a block of calls of one function alone, from an idle device to the wait at the end of the block, divided by
    the calls: what a loop takes. host: one call, from an idle device until it returns. The functions take turns by
    blocks. Because the device is idle at the start of each measurement, no work that another function has queued hides
    time that the host spends.
    """
    blocks = {}
    for name, function in functions.items():
        _block(function, 3, device)  # the first calls compile and allocate
        blocks[name] = rounds_in(seconds / BLOCKS, _block(function, 3, device) / 1e3, CALLS)
    wall: dict[str, list[float]] = {name: [] for name in functions}
    host: dict[str, list[float]] = {name: [] for name in functions}
    for names in _orders(list(functions), BLOCKS):
        for name in names:
            wall[name].append(_block(functions[name], blocks[name], device))
            host[name] += [_host(functions[name], device) for _ in range(HOST_CALLS)]
    device.synchronize()
    return {name: (Timing.of(wall[name]), Timing.of(host[name])) for name in functions}


def replay_time(replay: Callable[[], object], device: Device, seconds: float, rotated: int = 0) -> Timing:
    """The device's time for one run of a graph.

    rotated: how many sets of inputs, larger together than the cache, one replay goes through; the time is that of one
    set, from blocks of replays with one wait at the end. 0: the graph has one set, so the cache is cleared before each
    replay, and the replay is timed between marks on the device.
    """
    replay()
    each = _block(replay, 3, device)
    if rotated:
        calls = rounds_in(seconds / BLOCKS, each / 1e3, CALLS)
        return Timing.of([_block(replay, calls, device) / rotated for _ in range(BLOCKS)])
    marks = []
    for _ in range(rounds_in(seconds, each / 1e3, (15, 200))):
        device.clear_cache()
        first = device.mark()
        replay()
        marks.append((first, device.mark()))
    device.synchronize()
    return Timing.of([device.between(*pair) for pair in marks])


def quantile(times: Sequence[float], share: float) -> float:
    """The quantile of the times at `share`, from 0 to 1."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _orders(names: list[str], rounds: int) -> Iterator[list[str]]:
    """The names in rotating order, so that no function always finds the caches as the same other function left them."""
    for i in range(rounds):
        start = i % len(names) if names else 0
        yield names[start:] + names[:start]


def _block(function: Callable[[], object], calls: int, device: Device) -> float:
    """Milliseconds of a call in a block of calls, from an idle device to the wait at the end."""
    device.synchronize()
    start = device.now()
    for _ in range(calls):
        function()
    device.synchronize()
    return (device.now() - start) * 1e3 / calls


def _host(function: Callable[[], object], device: Device) -> float:
    """Milliseconds until one call returns, from an idle device."""
    device.synchronize()
    start = device.now()
    function()
    return (device.now() - start) * 1e3
