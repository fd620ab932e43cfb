"""Axes: round ticks, the span that shows a curve well, and labels as short as they can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastgan.report.text import exponent


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`, low < high."""

    low: float
    high: float
    ticks: list[float]

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """Where values lie, 0 at `low` and 1 at `high`; those beyond the ends lie on them."""
        return np.clip((np.asarray(values) - self.low) / (self.high - self.low), 0.0, 1.0)


def round_step(span: float, count: int) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that cuts the span in at most `count` parts."""
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1.0, 2.0, 5.0):
        if factor * power >= rough * (1 - 1e-9):
            return factor * power
    return 10.0 * power


def value_axis(low: float, high: float, count: int = 5) -> Axis:
    """Make an axis whose ends are ticks and which holds [low, high]; a single value gets room on both sides."""
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-100):
        room = 0.1 * size if size > 1e-100 else 1.0
        low, high = low - room, high + room
    step = round_step(high - low, count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [i * step for i in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks)


def step_axis(low: float, high: float, count: int = 5) -> Axis:
    """Make an axis that ends where the data ends, with whole ticks inside; a single step lies in the middle."""
    if high <= low:
        return Axis(low - 1.0, low + 1.0, [low])
    step = max(1.0, round_step(high - low, count))
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Axis(low, high, ticks or [low])


def span_of(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the lowest and highest value worth showing, of curves of finite values (not all empty).

    A few spikes that would flatten a curve are left out: where a fiftieth of the values at either end, but at least
    one, makes its span over ten times that of the rest.
    """
    lows, highs = [], []
    for values in curves:
        if not len(values):
            continue
        low, high = float(values.min()), float(values.max())
        if len(values) >= 20:
            few = max(1, len(values) // 50)
            inner_low, inner_high = (float(v) for v in np.sort(values)[[few, -1 - few]])
            room = inner_high - inner_low
            if room > 0 and high - low > 10 * room:
                low, high = max(low, inner_low - 0.2 * room), min(high, inner_high + 0.2 * room)
        lows.append(low)
        highs.append(high)
    return min(lows), max(highs)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Label ticks alike: as many decimals as they need to differ, k and M for thousands and millions."""
    size = max(abs(tick) for tick in ticks)
    gap = min((b - a for a, b in pairwise(ticks)), default=size or 1.0)
    if size >= 1e9 or 0 < size < 1e-3:
        digits = math.floor(math.log10(size)) - math.floor(math.log10(gap) + 1e-9)
        return ["0" if abs(tick) < gap / 2 else exponent(tick, min(8, max(0, digits))) for tick in ticks]
    unit, sign = (1e6, "M") if size >= 1e6 else (1e3, "k") if size >= 1e4 else (1.0, "")
    decimals = min(6, max(0, -math.floor(math.log10(gap / unit) + 1e-9)))
    return ["0" if abs(tick) < gap / 2 else f"{tick / unit:.{decimals}f}{sign}".replace("-", "−") for tick in ticks]
