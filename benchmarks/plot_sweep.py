"""Draws a sweep of end_to_end.py: milliseconds per image against batch size and against resolution.

python benchmarks/plot_sweep.py benchmarks/results/sweep.csv benchmarks/results/sweep.svg
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from plot import COLORS, GRAY, STYLE, save

Row = dict[str, str]
Points = dict[str, list[tuple[int, float]]]


def points(rows: list[Row], along: str, fixed: str, value: str) -> Points:
    """For each provider (along, milliseconds per image), of the rows in which `fixed` has `value`."""
    found: Points = {}
    for row in rows:
        if row["images_per_second"] and row[fixed] == value:
            name = row["provider"] if row["precision"] == "fp32" else f"{row['provider']} {row['precision']}"
            found.setdefault(name, []).append((int(row[along]), 1000 / float(row["images_per_second"])))
    return {name: sorted(line) for name, line in found.items()}


def draw_lines(axes: Axes, lines: Points, title: str, label: str) -> None:
    """Curves with both axes logarithmic. Rows of another precision than fp32 are dashed."""
    for name, line in lines.items():
        provider, _, precision = name.partition(" ")
        axes.plot(
            *zip(*line, strict=True), "o", linestyle="--" if precision else "-", markersize=4, label=name,
            color=COLORS.get(name, COLORS.get(provider, GRAY)),
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(label)
    axes.set_xticks(sorted({x for line in lines.values() for x, _ in line}))
    axes.xaxis.set_minor_locator(NullLocator())
    # From one power of two to another, with ticks between them where there are few.
    times = [y for line in lines.values() for _, y in line]
    low, high = math.floor(math.log2(min(times))), math.ceil(math.log2(max(times)))
    axes.set_ylim(2.0**low, 2.0**high)
    axes.yaxis.set_major_locator(LogLocator(base=2, subs=(1.0,) if high - low > 2 else (1.0, 1.25, 1.5, 1.75)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.grid(True, color="#ddd")


def draw(rows: list[Row]) -> Figure:
    """Both sweeps side by side."""
    device, torch = rows[0]["device"], rows[0]["torch"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_lines(left, points(rows, "batch", "side", "64"), "against batch size, at 64×64", "batch size")
        draw_lines(right, points(rows, "side", "batch", "16"), "against resolution, batch 16", "pixels per side")
        left.set_ylabel("milliseconds per image")
        figure.suptitle(
            f"WGAN-GP, one discriminator step per generator step, torch {torch} on {device}",
            x=0.01, ha="left", fontweight="bold",
        )  # fmt: skip
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=4, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    with options.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        parser.error(f"{options.table}: no row")
    save(draw(rows), options.picture)


if __name__ == "__main__":
    main()
