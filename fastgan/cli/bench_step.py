"""fastgan bench step: times a training step eagerly, compiled and as a CUDA graph."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fastgan.cli._parse import parse
from fastgan.cli._step import StepName, step_of
from fastgan.errors import UsageError


@dataclass
class _BenchStep:
    """Time a training step of your own in eager PyTorch, with torch.compile, with fastgan.compile and, on a GPU, as a
    CUDA graph. Each is first compared with the eager step; one that gives other results is not timed."""

    function: StepName
    """a function without arguments in a Python file, which is executed. It returns the step, a function, or a tuple of
    the step and its arguments: (step, (real, fake))"""
    seconds: float = 1.0
    """of timing, for each way to run the step and each kind of time"""
    json: bool = False
    """print all figures as JSON"""


def bench_step(argv: list[str]) -> None:
    """fastgan bench step FILE:FUNCTION [--seconds 1] [--json]"""
    options = parse(_BenchStep, argv, "bench step")
    if not options.seconds > 0:
        raise UsageError(f"seconds: expected a number > 0, got {options.seconds}")
    step, args = step_of(options.function)
    from fastgan.engine import benchmark

    found = benchmark(step, *args, seconds=options.seconds)
    print(json.dumps(found.as_dict(), indent=2) if options.json else found)
