"""Timing of several functions in alternating rounds, so that a disturbance slows down all of them. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

#: Runs a function once and returns a function; that one, called after all runs, returns the milliseconds it took.
Clock = Callable[[Callable[[], object]], Callable[[], float]]


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
    names = list(functions)
    for i in range(rounds):
        # The order rotates, so that no function always finds the caches as the same other function left them.
        start = i % len(names) if names else 0
        for name in names[start:] + names[:start]:
            pending[name].append(clock(functions[name]))
    return pending


def quantile(times: Sequence[float], share: float) -> float:
    """The quantile of the times at `share`, from 0 to 1."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
