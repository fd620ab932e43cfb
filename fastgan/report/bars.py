"""Pictures of measurements as SVG that stands alone: bars for latencies, lines for throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastgan.report.axes import Axis, tick_labels, value_axis
from fastgan.report.text import escape, figure

COLORS = ("#0b6bcb", "#c98500", "#2a8a57", "#a63d8f", "#7a5200", "#8a8f98", "#123e72", "#b3372f")
_LABELS, _WIDTH, _BAR, _HEIGHT, _MARGIN = 230, 520, 22, 240, 60


@dataclass(frozen=True)
class Bar:
    """A value, and one further out that a whisker reaches to."""

    label: str
    value: float
    reach: float


def bars(title: str, unit: str, rows: Sequence[Bar], top: float = 0) -> tuple[str, float]:
    """Bars from zero, one a row, as SVG elements; and where they end."""
    axis = value_axis(0.0, max(row.reach for row in rows))
    parts = [f'<text x="12" y="{top + 20:g}" font-weight="600">{escape(title)}</text>']
    bottom = top + 50 + len(rows) * (_BAR + 6)
    parts += _grid_across(axis, unit, top + 44, bottom)
    for i, row in enumerate(rows):
        y = top + 50 + i * (_BAR + 6)
        x, reach = (_LABELS + _WIDTH * float(axis.place(v)) for v in (row.value, row.reach))
        middle = y + _BAR / 2
        parts += [
            f'<text x="{_LABELS - 8}" y="{middle + 4:g}" text-anchor="end">{escape(row.label)}</text>',
            f'<rect x="{_LABELS}" y="{y:g}" width="{x - _LABELS:.1f}" height="{_BAR}" fill="{_color(i)}"/>',
            f'<path d="M{x:.1f} {middle:g}H{reach:.1f}M{reach:.1f} {middle - 5:g}v10" stroke="#222" fill="none"/>',
            f'<text x="{reach + 6:.1f}" y="{middle + 4:g}">{escape(figure(row.value))}</text>',
        ]
    return "".join(parts), bottom


def lines(
    title: str, across: str, unit: str, curves: Mapping[str, Sequence[tuple[float, float]]], top: float = 0
) -> tuple[str, float]:
    """Curves over evenly spaced places across, one for every x that occurs, as SVG elements; and where they end."""
    places = sorted({x for points in curves.values() for x, _ in points})
    axis = value_axis(0.0, max(y for points in curves.values() for _, y in points))
    start, end = top + 44, top + 44 + _HEIGHT
    parts = [f'<text x="12" y="{top + 20:g}" font-weight="600">{escape(title)}</text>']

    def at(x: float) -> float:
        return _LABELS + _WIDTH * (places.index(x) + 0.5) / len(places)

    def up(y: float) -> float:
        return end - _HEIGHT * float(axis.place(y))

    for tick, label in zip(axis.ticks, tick_labels(axis.ticks), strict=True):
        parts.append(f'<path d="M{_LABELS} {up(tick):.1f}h{_WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LABELS - 6}" y="{up(tick) + 4:.1f}" text-anchor="end" fill="#666">{label}</text>')
    parts.append(f'<text x="{_LABELS}" y="{start - 8:g}" fill="#666">{escape(unit)}</text>')
    for x in places:
        parts.append(f'<text x="{at(x):.1f}" y="{end + 16:g}" text-anchor="middle" fill="#666">{x:g}</text>')
    parts.append(f'<text x="{_LABELS + _WIDTH}" y="{end + 30:g}" text-anchor="end" fill="#666">{escape(across)}</text>')
    for i, (label, points) in enumerate(curves.items()):
        path = "L".join(f"{at(x):.1f} {up(y):.1f}" for x, y in sorted(points))
        parts.append(f'<path d="M{path}" stroke="{_color(i)}" stroke-width="2" fill="none"/>')
        parts += [f'<circle cx="{at(x):.1f}" cy="{up(y):.1f}" r="3.5" fill="{_color(i)}"/>' for x, y in points]
        y = start + 12 + 18 * i
        parts.append(f'<rect x="12" y="{y - 9:g}" width="10" height="10" fill="{_color(i)}"/>')
        parts.append(f'<text x="27" y="{y:g}">{escape(label)}</text>')
    return "".join(parts), max(end + 40, start + 18 * len(curves) + 20)


def page(title: str, parts: Sequence[str], height: float) -> str:
    """The elements as a file of their own."""
    width = _LABELS + _WIDTH + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 12:g}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="12" y="22" font-size="15" font-weight="600">{escape(title)}</text>{"".join(parts)}</svg>\n'
    )


def _grid_across(axis: Axis, unit: str, top: float, bottom: float) -> list[str]:
    parts = []
    for tick, label in zip(axis.ticks, tick_labels(axis.ticks), strict=True):
        x = _LABELS + _WIDTH * float(np.asarray(axis.place(tick)))
        parts.append(f'<path d="M{x:.1f} {top:g}V{bottom:g}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{top - 4:g}" text-anchor="middle" fill="#666">{label}</text>')
    parts.append(f'<text x="{_LABELS - 8}" y="{top - 4:g}" text-anchor="end" fill="#666">{escape(unit)}</text>')
    return parts


def _color(i: int) -> str:
    return COLORS[i % len(COLORS)]
