"""fastgan compare: runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastgan.cli._parse import parse, positional


@dataclass
class _Compare:
    """Compare runs on one page that opens offline: verdicts, panels at the same step, figures of fastgan eval, curves
    in one frame, what is configured differently."""

    out: Path = Path("compare.html")
    """the page to write"""


def compare(argv: list[str]) -> None:
    """fastgan compare RUN RUN... [--out compare.html]"""
    from fastgan.report.compare import write_comparison

    first, rest = positional(argv, "compare", "RUN RUN...", _Compare)
    more = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    options = parse(_Compare, rest[more:], "compare")
    print(f"comparison: {write_comparison([Path(run) for run in (first, *rest[:more])], options.out)}")
