"""Rows of metrics → series for charts: grouped, thinned, smoothed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgan.report.text import number

POINTS = 400
"""The most points a drawn curve has."""

_LARGEST = 1e100  # beyond it, sums and spans of values overflow a double


@dataclass(frozen=True)
class Series:
    """One curve. steps: float64 [n], rising; values: float64 [n], NaN where the logged value was not finite."""

    name: str
    steps: np.ndarray
    values: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """The values that can be drawn."""
        return self.values[np.isfinite(self.values)]


def series_by_group(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Series]]:
    """Collect every numeric `group/name` key: one list of series per group, in order of first appearance.

    A key that a row lacks adds no point; null, NaN and infinity add a gap.
    """
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for key, value in row.items():
            group, slash, name = key.partition("/")
            if not (slash and group and name) or isinstance(value, bool):
                continue
            if value is None or isinstance(value, int | float):
                plain = number(value)
                drawable = plain is not None and abs(plain) < _LARGEST
                point = (row["step"], plain if plain is not None and drawable else np.nan)
                points.setdefault(group, {}).setdefault(name, []).append(point)
    return {
        group: [Series(name, *np.array(pairs, np.float64).T) for name, pairs in names.items()]
        for group, names in points.items()
    }


def thin(series: Series, limit: int = POINTS) -> Series:
    """Average neighboring points until at most `limit` are left; a bin without a finite value stays a gap."""
    n = len(series.steps)
    if n <= limit:
        return series
    starts = np.arange(limit) * n // limit
    known = np.isfinite(series.values)
    counts = np.add.reduceat(known.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(known, series.values, 0.0), starts)
    values = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    sizes = np.diff(np.append(starts, n))
    return Series(series.name, np.add.reduceat(series.steps, starts) / sizes, values)


def smooth(values: np.ndarray) -> np.ndarray:
    """Smooth with a centered Gaussian (unlike a running mean, it adds no lag); gaps stay gaps and have weight 0."""
    n = len(values)
    sigma = n / 60
    reach = min(int(3 * sigma), (n - 1) // 2)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-9)) ** 2)
    known = np.isfinite(values)
    weights = np.convolve(known.astype(np.float64), kernel, "same")
    sums = np.convolve(np.where(known, values, 0.0), kernel, "same")
    return np.where(known, sums / np.maximum(weights, 1e-300), np.nan)
