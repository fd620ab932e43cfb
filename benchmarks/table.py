"""What the tables of several benchmarks have in common: columns of times, the device, CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fastgan._util.files import write_whole
from fastgan.testing.timing import Times

Row = dict[str, object]
#: The columns of times on a GPU. cache: what a replayed graph finds in the L2 cache, cleared or rotated inputs.
GPU_TIMES = (
    "wall_ms", "wall_q20_ms", "wall_q80_ms", "host_ms", "graph_ms", "graph_q20_ms", "graph_q80_ms", "cache",
)  # fmt: skip


def gpu_times(found: Times | None) -> Row:
    """The columns of GPU_TIMES; empty where nothing was measured."""
    if found is None:
        return {}
    row: Row = {"wall_ms": ms(found.wall.median), "wall_q20_ms": ms(found.wall.q20), "wall_q80_ms": ms(found.wall.q80)}
    if found.host is not None:
        row["host_ms"] = ms(found.host.median)
    if found.graph is not None:
        row |= {
            "graph_ms": ms(found.graph.median), "graph_q20_ms": ms(found.graph.q20),
            "graph_q80_ms": ms(found.graph.q80), "cache": found.cache,
        }  # fmt: skip
    return row


def ms(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def ratio(base: float | None, value: float | None) -> str:
    """How many times as fast as `base`, "" where one of them was not measured."""
    return "" if not base or not value else f"{base / value:.2f}"


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def resumed(path: Path | None, resume: bool) -> list[Row]:
    """The rows that an interrupted run has written to `path`; none if it is not to be resumed."""
    if path is None or not resume or not path.exists():
        return []
    with path.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]


def has(rows: Sequence[Mapping[str, object]], unit: Mapping[str, object]) -> bool:
    """Whether a row has these values, so that the unit of work was measured."""
    return any(all(str(row.get(name)) == str(value) for name, value in unit.items()) for row in rows)


def write(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write the rows as CSV, first to another file, so that an interrupted run leaves whole tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print lines of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
