"""fastgan compare: several runs on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan.cli._parse import parse


@dataclass
class _Compare:
    """Compare runs on one page that opens offline: diagnoses, sample grids at the same step, results of fastgan eval,
    curves in shared charts, differences of configuration."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN ...", help_behavior_hint="")]
    """run directories, two or more"""
    out: Path = Path("compare.html")
    """HTML file to write"""
    overwrite: bool = False
    """replace an existing file"""


def compare(argv: list[str]) -> None:
    """fastgan compare RUN RUN... [--out compare.html]"""
    from fastgan.report.compare import write_comparison

    options = parse(_Compare, argv, "compare")
    print(f"comparison: {write_comparison(options.runs, options.out, overwrite=options.overwrite)}")
