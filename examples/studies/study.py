"""What all studies share: their flags, which of their runs are asked for, and their tables."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def parser_of(about: str, steps: int | None, runs: bool = True) -> argparse.ArgumentParser:
    """--steps, --out and, where a study has several runs, --only. steps: those of a run that says nothing else."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    if runs:
        parser.add_argument("--only", default="", metavar="SUBSTRING", help="only runs whose name contains this")
    parser.add_argument("--steps", type=int, default=steps, help="generator steps")
    parser.add_argument("--out", type=Path, default=Path("studies"), metavar="DIR", help="where table and picture go")
    return parser


def chosen(runs: Iterable[str], parser: argparse.ArgumentParser, only: str) -> list[str]:
    """The names that contain `only`; the program ends where there are none."""
    names = list(runs)
    found = [name for name in names if only in name]
    if not found:
        parser.error(f"--only {only!r} is in no run's name; there are: {'; '.join(names)}")
    return found


def write(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Rows with the same columns as CSV; the folder is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
