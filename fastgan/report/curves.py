"""Series → line charts: inline SVG for the lines, HTML for axes and legend, so that text keeps its size on a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from fastgan.report.axes import Axis, span_of, step_axis, tick_labels, value_axis
from fastgan.report.diagnostics import Verdict
from fastgan.report.series import Series, smooth, thin
from fastgan.report.text import escape, figure, words

WIDTH, HEIGHT = 1000, 300
"""The SVG's own units; the page stretches them to the room there is."""

COLORS = 8
"""How many line colors page.css has; further lines use them again, dashed."""

SMOOTHED_FROM = 50  # fewer points than this are read well as they are

_GROUPS = {
    "loss": ("Losses", "what each player minimizes"),
    "l1": (
        "Distance to targets",
        "mean absolute error: of the batches, and of the averaged generator on pairs held out",
    ),
    "logit": ("Logits", "mean discriminator output"),
    "penalty": ("Penalties", "regularization terms"),
    "metric": ("Metric", "quality and variety of samples"),
    "range": ("Output range", "extremes of pixel values"),
    "discriminator": (
        "Discriminator",
        "pairs of images that it ranks right: 0.5 cannot tell; memory: trained on against never seen",
    ),
    "nearest": ("Nearest", "distance of an image to the one most like it in its batch"),
    "spread": ("Spread", "distance of two images of a batch"),
    "latent": ("Latents", "how far images move from one latent to another, along the path and end to end"),
    "gradient": ("Gradients", "norm of each player's gradient"),
    "update": ("Updates", "change of the weights as a part of their norm, by one update"),
    "slope": ("Slopes", "norms of the discriminator's gradient at real images"),
    "growth": ("Growth", "how often the side has doubled; a fraction while a level fades in"),
    "skipped": ("Skipped updates", "that were not finite, so far"),
    "speed": ("Speed", "how fast the run went"),
}
_UNITS = {"_per_second": "/s", "_seconds": "s", "_ms": "ms", "_mib": "MiB", "_gib": "GiB", "_bytes": "bytes"}


def charts(groups: dict[str, list[Series]], verdicts: Sequence[Verdict] = ()) -> str:
    """Draw one chart per group, the well-known groups first. Metrics share no unit: each has a chart of its own.

    verdicts: what was wrong and when, marked on every chart.
    """
    known = [group for group in _GROUPS if group in groups]
    out = []
    for group in [*known, *(group for group in groups if group not in _GROUPS)]:
        parts = [[one] for one in groups[group]] if group == "metric" else [groups[group]]
        out += [chart(group, part, verdicts) for part in parts]
    return "".join(out)


def overlaid(runs: Sequence[tuple[str, dict[str, list[Series]]]]) -> str:
    """Draw one chart for each name in the groups of (label, groups) of runs, with a line for each run that has it."""
    found = dict.fromkeys(group for _, own in runs for group in own)
    lines: dict[tuple[str, str], list[_Line]] = {}
    for group in [*(group for group in _GROUPS if group in found), *(group for group in found if group not in _GROUPS)]:
        for i, (label, own) in enumerate(runs):
            for one in own.get(group, []):
                lines.setdefault((group, one.name), []).append((i, label, one))
    out = ""
    for (group, name), same in lines.items():
        title, _ = _GROUPS.get(group, (words(group).capitalize(), ""))
        out += _figure(f"{title}: {words(name)}", "", unit_of([name]), same, ())
    return out


def chart(group: str, series: Sequence[Series], verdicts: Sequence[Verdict] = ()) -> str:
    """Draw one group as a figure: heading, legend with last values (the script shows others there), plot, notes."""
    title, meaning = _GROUPS.get(group, (words(group).capitalize(), ""))
    lines = [(i, words(one.name), one) for i, one in enumerate(series)]
    return _figure(title, meaning, unit_of([one.name for one in series]), lines, verdicts)


#: The number of its color, what the legend calls it, and the curve.
_Line = tuple[int, str, Series]


def _figure(title: str, meaning: str, unit: str, lines: Sequence[_Line], verdicts: Sequence[Verdict]) -> str:
    series = [one for _, _, one in lines]
    steps = np.concatenate([one.steps for one in series])
    first, last = float(steps.min()), float(steps.max())
    # Training starts at step 0, whether or not the first interval was logged there.
    across = step_axis(0.0 if first < 0.2 * last and len(steps) > len(series) else first, last)
    drawn = [one for one in series if len(one.finite)]
    up = value_axis(*span_of([one.finite for one in drawn])) if drawn else value_axis(0.0, 1.0)
    gutter = max(5, *map(len, tick_labels(up.ticks)))
    thinned = [thin(one) for one in series]
    paths = "".join(_line(i, one, across, up) for (i, _, _), one in zip(lines, thinned, strict=True))
    label = f"{title} by step, from {figure(first)} to {figure(last)}. "
    label += " ".join(_summary(name, one) for _, name, one in lines)
    data = [
        {"steps": [round(s) for s in one.steps.tolist()], "values": [_short(v) for v in one.values]} for one in thinned
    ]
    return (
        f'<figure class="chart" data-low="{across.low}" data-high="{across.high}">'
        f'<figcaption><h3>{escape(title)}</h3><span class="meaning">{escape(meaning)}</span>'
        f'<span class="at">step {figure(last)}</span></figcaption>'
        f'<ul class="legend">{"".join(_entry(*line) for line in lines)}</ul>'
        f'<div class="frame" style="--gutter:{gutter}">{f"""<div class="unit">{escape(unit)}</div>""" if unit else ""}'
        f'<div class="plot">{_bands(verdicts, across)}{_ticks(up, "y")}{_ticks(across, "x")}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f'{paths}</svg><span class="cursor" hidden></span></div><span class="across">step</span></div>'
        f"{_notes(lines, up)}"
        f'<script type="application/json">{json.dumps(data, separators=(",", ":"))}</script></figure>'
    )


def _bands(verdicts: Sequence[Verdict], across: Axis) -> str:
    out = ""
    for verdict in verdicts:
        left, right = (100 * float(across.place(step)) for step in (verdict.since, verdict.until))
        title = f"{verdict.name}, steps {figure(verdict.since)} to {figure(verdict.until)}"
        out += f'<span class="band" style="left:{left:.2f}%;width:{right - left:.2f}%" title="{escape(title)}"></span>'
    return out


def path_of(steps: np.ndarray, values: np.ndarray, across: Axis, up: Axis) -> tuple[str, str]:
    """Write a curve as two SVG paths: its lines, broken at every NaN, and the points with no neighbor to join."""
    x = across.place(steps) * WIDTH
    y = (1.0 - up.place(values)) * HEIGHT
    lines, dots = [], []
    for part in _runs(np.isfinite(values)):
        points = [f"{a:.1f} {b:.1f}" for a, b in zip(x[part], y[part], strict=True)]
        if len(points) == 1:
            dots.append(f"M{points[0]}h0")
        else:
            lines.append("M" + "L".join(points))
    return "".join(lines), "".join(dots)


def unit_of(names: Sequence[str]) -> str:
    """Return the unit all names end with (`images_per_second` → `images/s`), or nothing."""
    found = set()
    for name in names:
        suffix = next((suffix for suffix in _UNITS if name.endswith(suffix)), "")
        stem = words(name.removesuffix(suffix)) if suffix == "_per_second" else ""
        found.add(stem + _UNITS.get(suffix, ""))
    return found.pop() if len(found) == 1 else ""


def _line(i: int, series: Series, across: Axis, up: Axis) -> str:
    style = f"c{i % COLORS}" + (" dashed" if i >= COLORS else "")
    lines, dots = path_of(series.steps, series.values, across, up)
    faint = len(series.steps) >= SMOOTHED_FROM
    out = f'<path class="{style}{" raw" if faint else ""}" d="{lines}"/>' if lines else ""
    if dots:
        out += f'<path class="{style} dot{" raw" if faint else ""}" d="{dots}"/>'
    if faint:
        # What lies beyond the axis would drag its neighbors along, so it weighs as if it lay on the edge.
        calm, _ = path_of(series.steps, smooth(np.clip(series.values, up.low, up.high)), across, up)
        out += f'<path class="{style}" d="{calm}"/>' if calm else ""
    return out


def _runs(known: np.ndarray) -> Iterator[slice]:
    """Yield the stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield slice(int(start), int(stop))


def _ticks(axis: Axis, side: str) -> str:
    edge = "bottom" if side == "y" else "left"
    return "".join(
        f'<span class="tick {side}" style="{edge}:{100 * float(axis.place(tick)):.2f}%">'
        f"<span>{escape(label)}</span></span>"
        for tick, label in zip(axis.ticks, tick_labels(axis.ticks), strict=True)
    )


def _entry(i: int, name: str, series: Series) -> str:
    return f'<li>{swatch(i)}{escape(name)} <b class="value">{figure(series.values[-1])}</b></li>'


def swatch(i: int) -> str:
    """The color of a chart's i-th line, for legends."""
    return f'<span class="swatch c{i % COLORS}{" dashed" if i >= COLORS else ""}"></span>'


def _summary(name: str, series: Series) -> str:
    if not len(series.finite):
        return f"{name}: no finite value."
    low, high, last = (figure(v) for v in (series.finite.min(), series.finite.max(), series.finite[-1]))
    return f"{name}: last {last}, lowest {low}, highest {high}."


def _notes(lines: Sequence[_Line], up: Axis) -> str:
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
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _short(value: float) -> float | None:
    """Five digits are enough for a read-out; null is JSON's only word for a gap."""
    return float(f"{value:.5g}") if np.isfinite(value) else None
