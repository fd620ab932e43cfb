"""Draws a sweep of end_to_end.py: what an image costs against batch size and against resolution.

python benchmarks/plot_sweep.py benchmarks/results/sweep.csv benchmarks/results/sweep.svg
"""

from __future__ import annotations

import argparse
import csv
import html
import math
from pathlib import Path

from plot import COLORS

WIDTH, HEIGHT, LEFT, TOP = 330, 220, 70, 60
Points = dict[str, list[tuple[int, float]]]


def points(rows: list[dict[str, str]], along: str, fixed: str, value: str) -> Points:
    """For each provider (along, milliseconds an image), where `fixed` has `value`."""
    found: Points = {}
    for row in rows:
        if row["images_per_second"] and row[fixed] == value:
            name = row["provider"] if row["precision"] == "fp32" else f"{row['provider']} {row['precision']}"
            found.setdefault(name, []).append((int(row[along]), 1000 / float(row["images_per_second"])))
    return {name: sorted(line) for name, line in found.items()}


def panel(lines: Points, title: str, left: float) -> list[str]:
    """One picture with both axes logarithmic."""
    xs = sorted({x for line in lines.values() for x, _ in line})
    ys = [y for line in lines.values() for _, y in line]
    low, high = 2.0 ** math.floor(math.log2(min(ys))), 2.0 ** math.ceil(math.log2(max(ys)))

    def x(value: float) -> float:
        return left + LEFT + WIDTH * math.log(value / xs[0]) / math.log(xs[-1] / xs[0])

    def y(value: float) -> float:
        return TOP + HEIGHT * (1 - math.log(value / low) / math.log(high / low))

    parts = [f'<text x="{left + LEFT}" y="{TOP - 12}" font-weight="600">{html.escape(title)}</text>']
    value = low
    while value <= high * 1.001:
        parts.append(f'<line x1="{x(xs[0])}" x2="{x(xs[-1])}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{left + LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#666">{value:g}</text>'
        )
        value *= 2
    for tick in xs:
        parts.append(f'<text x="{x(tick):.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle" fill="#666">{tick}</text>')
    for name, line in lines.items():
        color = color_of(name)
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{color}"/>' for a, b in line]
    return parts


def color_of(name: str) -> str:
    """A provider's color, as in plot.py; the others are eager."""
    return next((c for key, c in sorted(COLORS.items(), key=lambda e: -len(e[0])) if name.startswith(key)), "#8a8f98")


def draw(rows: list[dict[str, str]]) -> str:
    """The picture as SVG text."""
    by_batch, by_side = points(rows, "batch", "side", "64"), points(rows, "side", "batch", "16")
    device, torch = rows[0]["device"], rows[0]["torch"]
    title = (
        f"milliseconds an image: WGAN-GP, one discriminator step for each of the generator, torch {torch} on {device}"
    )
    width = 2 * (WIDTH + LEFT) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + 60}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#222">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="12" y="20" font-size="14" font-weight="600">{html.escape(title)}</text>',
        *panel(by_batch, "against batch size, at 64×64", 0),
        *panel(by_side, "against resolution, batch 16", WIDTH + LEFT + 40),
    ]
    at = 12.0
    for name in by_batch:
        parts.append(f'<rect x="{at:.0f}" y="{TOP + HEIGHT + 34}" width="10" height="10" fill="{color_of(name)}"/>')
        parts.append(f'<text x="{at + 14:.0f}" y="{TOP + HEIGHT + 43}">{html.escape(name)}</text>')
        at += 30 + 7 * len(name)
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    with options.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        parser.error(f"{options.table}: no row")
    options.picture.write_text(draw(rows))


if __name__ == "__main__":
    main()
