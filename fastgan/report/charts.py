"""Series → line charts as plain values for a template: SVG paths for the curves; ticks, legend and notes as text.

Text is HTML and not SVG, so that it keeps its size when a phone shrinks the plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fastgan.report.diagnostics import Diagnosis
from fastgan.report.series import Series, smooth, thin
from fastgan.report.text import exponent, figure, words

WIDTH, HEIGHT = 1000, 300
"""The SVG's own units; the page stretches them to the space available."""

COLORS = 8
"""The number of line colors in page.css; further lines use them again, dashed."""

SMOOTHED_FROM = 50
"""Curves of this many points or more are also drawn smoothed."""

#: Title and subtitle of the charts of known groups, in the order in which a page shows them.
GROUPS = {
    "loss": ("Losses", "minimized by the generator and the discriminator"),
    "l1": (
        "Distance to targets",
        "mean absolute error: of the batches, and of the averaged generator on held-out pairs",
    ),
    "logit": ("Logits", "mean discriminator output"),
    "penalty": ("Penalties", "gradient penalties and consistency terms"),
    "eval": ("Evaluation", "of the averaged generator against real images"),
    "rate": ("Learning rates", "as scheduled"),
    "metric": ("Metric", "quality and variety of samples"),
    "range": ("Output range", "extremes of pixel values"),
    "auroc": ("AUROC", "of the discriminator's logits; 0.5: the two sets cannot be distinguished"),
    "modes": ("Modes", "classes among generated images, and the entropy of their shares in nats"),
    "augment": ("Augmentation", "probability p of adaptive augmentation, and the mean sign of real logits"),
    "nearest": ("Nearest neighbors", "distance of an image to its nearest neighbor in the batch"),
    "spread": ("Spread", "distance of two images of a batch"),
    "latent": ("Latents", "distance of images along the path from one latent to another, and of its two ends"),
    "gradient": ("Gradients", "norm of each network's gradient"),
    "update": ("Updates", "norm of one update relative to the norm of the weights"),
    "gradient_norm": ("Gradient norms", "norms of the discriminator's gradient at real images"),
    "growth": ("Growth", "doublings of the resolution so far; a fraction while a level fades in"),
    "skipped": ("Skipped updates", "total of updates that were not finite"),
    "speed": ("Speed", "training speed"),
    "memory": ("Memory", "most so far: of the GPU's by tensors, else of the host's by the process"),
}
#: Names in legends; of all other series, the words of their key.
_NAMES = {"real_fake": "real against fake", "train_held_out": "training against held-out"}
_UNITS = {
    "_per_second": "/s",
    "_seconds": "s",
    "_ms": "ms",
    "_mib": "MiB",
    "_gib": "GiB",
    "_gb": "GB",
    "_bytes": "bytes",
}


# --- charts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One curve of a chart. style: its CSS classes. value: the last value as text. paths: (CSS classes, SVG path)."""

    style: str
    name: str
    value: str
    paths: list[tuple[str, str]]


@dataclass(frozen=True)
class Chart:
    """One chart. Positions are percentages of the plot's width (x, bands) or height (y)."""

    title: str
    meaning: str
    unit: str
    lines: list[Line]
    #: First and last step on the x axis.
    low: float
    high: float
    last_step: str
    x_ticks: list[tuple[str, str]]
    y_ticks: list[tuple[str, str]]
    #: Characters that the labels of the y axis need.
    gutter: int
    #: (left, width, tooltip) of the intervals in which a diagnosis held.
    bands: list[tuple[str, str, str]]
    #: The chart in words, for screen readers.
    label: str
    notes: list[str]
    #: The points of each line, which the script shows under the pointer.
    data: list[dict[str, list[Any]]]


def charts(groups: dict[str, list[Series]], diagnoses: Sequence[Diagnosis] = ()) -> list[Chart]:
    """One chart per group, the known groups first. Metrics share no unit, so each gets its own chart."""
    found = []
    for group in _in_order(groups):
        parts = [[one] for one in groups[group]] if group in ("eval", "metric") else [groups[group]]
        found += [chart(group, part, diagnoses) for part in parts]
    return found


def overlaid(runs: Sequence[tuple[str, dict[str, list[Series]]]]) -> list[Chart]:
    """One chart per series name in the groups of (label, groups) of runs, with a line for each run that has it."""
    same_name: dict[tuple[str, str], list[tuple[int, str, Series]]] = {}
    for group in _in_order(dict.fromkeys(group for _, own in runs for group in own)):
        for i, (label, own) in enumerate(runs):
            for one in own.get(group, []):
                same_name.setdefault((group, one.name), []).append((i, label, one))
    return [
        _chart(f"{_heading(group)[0]}: {_name(name)}", "", unit_of([name]), lines, ())
        for (group, name), lines in same_name.items()
    ]


def chart(group: str, series: Sequence[Series], diagnoses: Sequence[Diagnosis] = ()) -> Chart:
    """The chart of one group."""
    lines = [(i, _name(one.name), one) for i, one in enumerate(series)]
    return _chart(*_heading(group), unit_of([one.name for one in series]), lines, diagnoses)


def unit_of(names: Sequence[str]) -> str:
    """Return the unit that all names end with (`images_per_second` → `images/s`), or an empty string."""
    found = set()
    for name in names:
        suffix = next((suffix for suffix in _UNITS if name.endswith(suffix)), "")
        stem = words(name.removesuffix(suffix)) if suffix == "_per_second" else ""
        found.add(stem + _UNITS.get(suffix, ""))
    return found.pop() if len(found) == 1 else ""


def style_of(i: int) -> str:
    """CSS classes of the color of a chart's i-th line."""
    return f"c{i % COLORS}" + (" dashed" if i >= COLORS else "")


def path_of(steps: np.ndarray, values: np.ndarray, across: Axis, up: Axis) -> tuple[str, str]:
    """Write a curve as two SVG paths: its lines, broken at every NaN, and the points without a neighbor to join."""
    x = across.position(steps) * WIDTH
    y = (1.0 - up.position(values)) * HEIGHT
    lines, dots = [], []
    for part in _stretches(np.isfinite(values)):
        points = [f"{a:.1f} {b:.1f}" for a, b in zip(x[part], y[part], strict=True)]
        if len(points) == 1:
            dots.append(f"M{points[0]}h0")
        else:
            lines.append("M" + "L".join(points))
    return "".join(lines), "".join(dots)


def _in_order(groups: dict[str, Any]) -> list[str]:
    return [*(group for group in GROUPS if group in groups), *(group for group in groups if group not in GROUPS)]


def _heading(group: str) -> tuple[str, str]:
    return GROUPS.get(group, (words(group).capitalize(), ""))


def _name(name: str) -> str:
    return _NAMES.get(name, words(name))


def _chart(
    title: str, meaning: str, unit: str, lines: Sequence[tuple[int, str, Series]], diagnoses: Sequence[Diagnosis]
) -> Chart:
    """lines: (index of the color, name in the legend, curve)."""
    series = [one for _, _, one in lines]
    steps = np.concatenate([one.steps for one in series])
    first, last = float(steps.min()), float(steps.max())
    # Training starts at step 0, whether or not the first interval was logged there.
    across = step_axis(0.0 if first < 0.2 * last and len(steps) > len(series) else first, last)
    drawn = [one.finite for one in series if len(one.finite)]
    up = value_axis(*span_of(drawn)) if drawn else value_axis(0.0, 1.0)
    thinned = [thin(one) for one in series]
    label = f"{title} by step, from {figure(first)} to {figure(last)}. "
    label += " ".join(_summary(name, one) for _, name, one in lines)
    return Chart(
        title=title,
        meaning=meaning,
        unit=unit,
        lines=[
            Line(style_of(i), name, figure(one.values[-1]), _paths(style_of(i), thin_one, across, up))
            for (i, name, one), thin_one in zip(lines, thinned, strict=True)
        ],
        low=across.low,
        high=across.high,
        last_step=figure(last),
        x_ticks=_ticks(across),
        y_ticks=_ticks(up),
        gutter=max(5, *map(len, tick_labels(up.ticks))),
        bands=[_band(diagnosis, across) for diagnosis in diagnoses],
        label=label,
        notes=_notes(lines, up),
        data=[
            {"steps": [round(s) for s in one.steps.tolist()], "values": [_rounded(v) for v in one.values]}
            for one in thinned
        ],
    )


def _paths(style: str, series: Series, across: Axis, up: Axis) -> list[tuple[str, str]]:
    lines, dots = path_of(series.steps, series.values, across, up)
    faint = len(series.steps) >= SMOOTHED_FROM
    raw = " raw" if faint else ""
    paths = [(f"{style}{raw}", lines), (f"{style} dot{raw}", dots)]
    if faint:
        # Values beyond the axis are clipped first: they would pull the smoothed curve away from its neighbors.
        smoothed, _ = path_of(series.steps, smooth(np.clip(series.values, up.low, up.high)), across, up)
        paths.append((style, smoothed))
    return [(classes, path) for classes, path in paths if path]


def _band(diagnosis: Diagnosis, across: Axis) -> tuple[str, str, str]:
    left, right = (100 * float(across.position(step)) for step in (diagnosis.since, diagnosis.until))
    tooltip = f"{diagnosis.name}, steps {figure(diagnosis.since)} to {figure(diagnosis.until)}"
    return f"{left:.2f}", f"{right - left:.2f}", tooltip


def _ticks(axis: Axis) -> list[tuple[str, str]]:
    return [
        (f"{100 * float(axis.position(tick)):.2f}", label)
        for tick, label in zip(axis.ticks, tick_labels(axis.ticks), strict=True)
    ]


def _summary(name: str, series: Series) -> str:
    if not len(series.finite):
        return f"{name}: no finite value."
    low, high, last = (figure(v) for v in (series.finite.min(), series.finite.max(), series.finite[-1]))
    return f"{name}: last {last}, lowest {low}, highest {high}."


def _notes(lines: Sequence[tuple[int, str, Series]], up: Axis) -> list[str]:
    notes = []
    for _, name, one in lines:
        lost = len(one.values) - len(one.finite)
        beyond = one.finite[(one.finite < up.low) | (one.finite > up.high)]
        if lost:
            kind = "value was" if lost == 1 else "values were"
            notes.append(f"{name}: {lost} {kind} not finite; the curve has gaps there.")
        if len(beyond):
            farthest = beyond[np.argmax(np.abs(beyond))]
            kind = "value lies" if len(beyond) == 1 else "values lie"
            notes.append(f"{name}: {len(beyond)} {kind} beyond the axis, the farthest at {figure(farthest)}.")
    return notes


def _stretches(known: np.ndarray) -> Iterator[slice]:
    """Yield the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield slice(int(start), int(stop))


def _rounded(value: float) -> float | None:
    """Five digits are enough under the pointer; JSON has no NaN, so a gap is null."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


# --- axes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`, low < high."""

    low: float
    high: float
    ticks: list[float]

    def position(self, values: np.ndarray | float) -> np.ndarray:
        """Positions of values, 0 at `low` and 1 at `high`; values beyond the ends are clipped to them."""
        return np.clip((np.asarray(values) - self.low) / (self.high - self.low), 0.0, 1.0)


def round_step(span: float, count: int) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that divides the span into at most `count` parts."""
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1.0, 2.0, 5.0):
        if factor * power >= rough * (1 - 1e-9):
            return factor * power
    return 10.0 * power


def value_axis(low: float, high: float, count: int = 5) -> Axis:
    """Make an axis whose ends are ticks and which contains [low, high]; a single value gets space on both sides."""
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-100):
        margin = 0.1 * size if size > 1e-100 else 1.0
        low, high = low - margin, high + margin
    step = round_step(high - low, count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [i * step for i in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks)


def step_axis(low: float, high: float, count: int = 5) -> Axis:
    """Make an axis that ends where the data ends, with integer ticks inside; a single step lies in the middle."""
    if high <= low:
        return Axis(low - 1.0, low + 1.0, [low])
    step = max(1.0, round_step(high - low, count))
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Axis(low, high, ticks or [low])


def span_of(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the lowest and highest value to show, of curves of finite values (not all empty).

    A few outliers that would flatten a curve are left out: if a fiftieth of the values at either end, at least one,
    makes its span over ten times that of the others.
    """
    lows, highs = [], []
    for values in curves:
        if not len(values):
            continue
        low, high = float(values.min()), float(values.max())
        if len(values) >= 20:
            few = max(1, len(values) // 50)
            inner_low, inner_high = (float(v) for v in np.sort(values)[[few, -1 - few]])
            inner = inner_high - inner_low
            if inner > 0 and high - low > 10 * inner:
                low, high = max(low, inner_low - 0.2 * inner), min(high, inner_high + 0.2 * inner)
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
