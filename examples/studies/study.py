"""What all studies share: flags, runs, and tables."""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, object]


def parser_of(about: str, steps: int | None = None, runs: bool = True) -> argparse.ArgumentParser:
    """A parser with --out, --steps, which overrides the steps of every run, and, if `runs`, --only."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    if runs:
        parser.add_argument(
            "--only", default="", metavar="SUBSTRING",
            help="only the run of this name, or else all whose name contains it; results of other runs in DIR are kept",
        )  # fmt: skip
    parser.add_argument("--steps", type=int, default=steps, help="generator steps of every run")
    parser.add_argument("--out", type=Path, default=Path("studies"), metavar="DIR", help="folder of table and picture")
    return parser


def results(
    parser: argparse.ArgumentParser,
    runs: Mapping[str, dict[str, Any]],
    run: Callable[[str, dict[str, Any]], tuple[Row, np.ndarray]],
    folder: str,
    long: Collection[str] = (),
) -> tuple[list[Row], list[np.ndarray]]:
    """Rows of the table and samples, in the order of `runs`: of the runs that --only selects and of earlier ones.

    `run(name, options)` computes one; it is saved in DIR/folder at once, so that an interrupted study continues with
    --only. long: names of runs that take an hour or special hardware; they are run only if --only is the full name.
    Exits with an error if --only selects none.
    """
    options = parser.parse_args()
    chosen = [options.only] if options.only in runs else [n for n in runs if options.only in n and n not in long]
    if not chosen:
        parser.error(f"--only {options.only!r} is no run of this study; there are: {'; '.join(runs)}")
    kept = {name: options.out / folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.npz" for name in runs}
    next(iter(kept.values())).parent.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        row, samples = run(name, runs[name] | ({} if options.steps is None else {"steps": options.steps}))
        np.savez_compressed(kept[name], row=json.dumps(row), samples=samples)
        print(f"{name:36}", ", ".join(f"{word} {value}" for word, value in row.items() if word != "run"), flush=True)
    made = [np.load(path) for path in kept.values() if path.exists()]
    return [json.loads(str(part["row"])) for part in made], [part["samples"] for part in made]


def write(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Rows with the same columns as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
