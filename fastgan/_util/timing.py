"""Timing side by side: the contestants take turns, so that what disturbs one disturbs all. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

#: Runs a function once; the result, called once everything has run, is its time in milliseconds.
Clock = Callable[[Callable[[], object]], Callable[[], float]]


def watch(function: Callable[[], object]) -> Callable[[], float]:
    """The clock on the wall, for functions that return when they have finished."""
    start = time.perf_counter()
    function()
    took = (time.perf_counter() - start) * 1e3
    return lambda: took


def rounds_in(seconds: float, per_round: float, limits: tuple[int, int]) -> int:
    """How many rounds of `per_round` seconds fit into `seconds`, but within the limits."""
    least, most = limits
    return int(min(most, max(least, seconds / max(per_round, 1e-9))))


def alternate(
    functions: Mapping[str, Callable[[], object]], clock: Clock, rounds: int
) -> dict[str, list[Callable[[], float]]]:
    """Let each function run once a round."""
    pending: dict[str, list[Callable[[], float]]] = {name: [] for name in functions}
    names = list(functions)
    for i in range(rounds):
        # Nobody always runs behind the same neighbor and its leavings in the caches.
        start = i % len(names) if names else 0
        for name in names[start:] + names[:start]:
            pending[name].append(clock(functions[name]))
    return pending


def quantile(times: Sequence[float], share: float) -> float:
    """The time that a `share` of the times stay below."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
