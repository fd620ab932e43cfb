"""fastgan profile: where the time of a training step goes, by operation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fastgan.cli._parse import parse
from fastgan.cli._step import StepName, step_of


@dataclass
class _Profile:
    """Sum the time of a training step of your own by operation, on the host and on the GPU."""

    function: StepName
    """a function without arguments in a Python file, which is executed. It returns the step, a function, or a tuple of
    the step and its arguments: (step, (real, fake)). A step of fastgan.compile is profiled as it runs compiled"""
    steps: int = 5
    """that are recorded"""
    trace: Path | None = None
    """JSON file to write with every event, for chrome://tracing or ui.perfetto.dev"""
    overwrite: bool = False
    """replace an existing trace"""
    json: bool = False
    """print all figures as JSON"""


def profile(argv: list[str]) -> None:
    """fastgan profile FILE:FUNCTION [--steps 5] [--trace FILE] [--json]"""
    options = parse(_Profile, argv, "profile")
    step, args = step_of(options.function)
    from fastgan.engine import profile

    found = profile(step, *args, steps=options.steps, trace=options.trace, overwrite=options.overwrite)
    print(json.dumps(found.as_dict(), indent=2) if options.json else found)
