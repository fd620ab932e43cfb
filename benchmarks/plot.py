"""Draws a table of run.py or end_to_end.py as bars: speed relative to eager PyTorch (in the same memory layout).

python benchmarks/plot.py benchmarks/results/cpu.csv benchmarks/results/cpu.svg [--case SUBSTRING] [--mode MODE]
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

#: Colors of providers; others are gray.
COLORS = {
    "fastgan": "#0b6bcb",
    "fastgan+compile": "#6aa9e9",
    "hand-written graph": "#7a5200",
    "eager channels_last": "#8a8f98",
    "eager+compile": "#c98500",
    "compile": "#c98500",
    "reference": "#8a8f98",
}
GRAY = "#8a8f98"
#: Text stays text, in the reader's own font; the same table always gives the same file.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "fastgan", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False, "text.parse_math": False}  # fmt: skip

Row = dict[str, str]
#: A measured case, and (provider, ratio) for each of its bars.
Group = tuple[str, list[tuple[str, float]]]


def groups(rows: list[Row]) -> list[Group]:
    """For each measured case the providers and their ratios, without eager itself."""
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        ratio = row["ratio_vs_eager"] if "ratio_vs_eager" in row else row["wall_vs_eager"]
        if not ratio or (row["provider"], row.get("precision", "fp32")) == ("eager", "fp32"):
            continue
        if "preset" in row:
            title = f"{row['preset']}\nbatch {row['batch']} {row['precision']}"
        else:
            mode = "" if row["mode"] == "step" else f" {row['mode']}"
            title = f"{row['case']}{mode}\n{row['shape']} {row['layout']} {row['dtype']}"
        found.setdefault(title, []).append((row["provider"], float(ratio)))
    return list(found.items())


def draw(found: list[Group], title: str) -> Figure:
    """Horizontal bars, one group of them for each case."""
    with matplotlib.rc_context(STYLE):
        places, y = [], 0.0
        for _, bars in found:
            places.append(y)
            y += max(len(bars), 2) + 1
        figure = Figure(figsize=(9, 1.2 + 0.17 * y), layout="constrained")
        axes = figure.add_subplot()
        for provider in dict.fromkeys(name for _, bars in found for name, _ in bars):
            spots = [
                (top + i, ratio)
                for top, (_, bars) in zip(places, found, strict=True)
                for i, (name, ratio) in enumerate(bars)
                if name == provider
            ]
            drawn = axes.barh(*zip(*spots, strict=True), height=0.85, color=COLORS.get(provider, GRAY), label=provider)
            axes.bar_label(drawn, fmt="%g", padding=3, fontsize=8)
        middles = [top + (max(len(bars), 1) - 1) / 2 for top, (_, bars) in zip(places, found, strict=True)]
        axes.set_yticks(middles, [label for label, _ in found])
        axes.set_ylim(y - 1, -1)
        axes.axvline(1, color="#222", linewidth=1)
        axes.xaxis.grid(True, color="#ddd")
        axes.set_axisbelow(True)
        axes.xaxis.tick_top()
        axes.xaxis.set_major_formatter("{x:g}×")
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=4, frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write SVG without the date."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only cases whose name contains this")
    parser.add_argument("--mode", default="", help="only this mode of the ops, such as forward+backward")
    options = parser.parse_args()
    with options.table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if options.case in row.get("case", row.get("preset", ""))]
    rows = [row for row in rows if options.mode in ("", row.get("mode", "step")) or row.get("mode", "step") == "step"]
    found = groups(rows)
    if not found:
        parser.error(f"{options.table}: no measured row is left")
    device, torch = rows[0]["device"], rows[0]["torch"]
    title = f"Speed relative to eager PyTorch {torch} on {device} ({rows[0]['threads']} threads)"
    save(draw(found, title), options.picture)


if __name__ == "__main__":
    main()
