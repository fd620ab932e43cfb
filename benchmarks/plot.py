"""Draws a table of run.py or end_to_end.py as bars: how many times as fast as eager PyTorch (in the same layout).

python benchmarks/plot.py benchmarks/results/cpu.csv benchmarks/results/cpu.svg [--case SUBSTRING] [--mode MODE]
"""

from __future__ import annotations

import argparse
import csv
import html
import math
from pathlib import Path

COLORS = {
    "fastgan": "#0b6bcb",
    "fastgan+compile": "#6aa9e9",
    "fastgan+graph": "#123e72",
    "hand-written graph": "#7a5200",
    "eager channels_last": "#8a8f98",
    "eager+compile": "#c98500",
    "eager+graph": "#7a5200",
    "compile": "#c98500",
    "reference": "#8a8f98",
}
LABELS, WIDTH, BAR, GAP = 330, 520, 13, 12

Row = dict[str, str]
Group = tuple[str, list[tuple[str, float]]]


def groups(rows: list[Row]) -> list[Group]:
    """For each measured case the providers and their ratios, eager itself left out."""
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        if "preset" in row and row["ratio_vs_eager"]:
            if (row["provider"], row["precision"]) != ("eager", "fp32"):
                title = f"{row['preset']}|batch {row['batch']} {row['precision']}"
                found.setdefault(title, []).append((row["provider"], float(row["ratio_vs_eager"])))
        elif row["provider"] != "eager" and row["ratio_vs_eager"]:
            mode = "" if row["mode"] == "step" else f" {row['mode']}"
            title = f"{row['case']}{mode}|{row['shape']} {row['layout']} {row['dtype']}"
            found.setdefault(title, []).append((row["provider"], float(row["ratio_vs_eager"])))
    return list(found.items())


def draw(found: list[Group], title: str) -> str:
    """The picture as SVG text."""
    most = max(ratio for _, bars in found for _, ratio in bars)
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if most / s <= 8)
    end = math.ceil(most / step) * step
    height = 70 + sum(len(bars) * BAR + GAP + (BAR if len(bars) < 2 else 0) for _, bars in found)

    def x(ratio: float) -> float:
        return LABELS + WIDTH * ratio / end

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABELS + WIDTH + 60} {height}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#222">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="12" y="20" font-size="14" font-weight="600">{html.escape(title)}</text>',
    ]
    at = 12.0
    for provider in [name for name in COLORS if any(name == n for _, bars in found for n, _ in bars)]:
        parts.append(f'<rect x="{at:.0f}" y="30" width="10" height="10" fill="{COLORS[provider]}"/>')
        parts.append(f'<text x="{at + 14:.0f}" y="39">{provider}</text>')
        at += 26 + 7 * len(provider)
    for i in range(round(end / step) + 1):
        line = "#222" if i * step == 1 else "#ddd"
        parts.append(f'<line x1="{x(i * step):.1f}" x2="{x(i * step):.1f}" y1="52" y2="{height}" stroke="{line}"/>')
        parts.append(f'<text x="{x(i * step):.1f}" y="49" text-anchor="middle" fill="#666">{i * step:g}×</text>')
    y = 60
    for label, bars in found:
        first, _, second = label.partition("|")
        parts.append(f'<text x="{LABELS - 8}" y="{y + 10}" text-anchor="end">{html.escape(first)}</text>')
        parts.append(f'<text x="{LABELS - 8}" y="{y + 22}" text-anchor="end" fill="#777">{html.escape(second)}</text>')
        for i, (provider, ratio) in enumerate(bars):
            top, width, color = y + i * BAR, x(ratio) - x(0), COLORS[provider]
            parts.append(f'<rect x="{x(0)}" y="{top}" width="{width:.1f}" height="{BAR - 2}" fill="{color}"/>')
            parts.append(f'<text x="{x(ratio) + 4:.1f}" y="{top + 9}">{ratio:g}</text>')
        y += max(len(bars), 2) * BAR + GAP
    return "\n".join([*parts, "</svg>", ""])


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
    options.picture.write_text(draw(found, f"times eager PyTorch {torch} on {device} ({rows[0]['threads']} threads)"))


if __name__ == "__main__":
    main()
