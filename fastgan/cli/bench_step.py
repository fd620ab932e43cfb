"""fastgan bench step: times a training step eagerly, compiled and as a CUDA graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastgan.cli._parse import parse
from fastgan.errors import UsageError


@dataclass
class _BenchStep:
    """Time a training step of your own in eager PyTorch, with torch.compile, with fastgan.compile and, on a GPU, as a
    CUDA graph. Each is first compared with the eager step; one that gives other results is not timed."""

    function: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE:FUNCTION")]
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
    step, args = _step(options.function)
    from fastgan.engine import benchmark

    found = benchmark(step, *args, seconds=options.seconds)
    print(json.dumps(found.as_dict(), indent=2) if options.json else found)


def _step(text: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The step that FILE:FUNCTION gives, and its arguments."""
    from fastgan._util.user_code import module_of_file

    file, colon, name = text.rpartition(":")
    if not (colon and file and name.isidentifier()):
        raise UsageError(f"function: expected FILE:FUNCTION, such as mine.py:critic_step, got {text!r}")
    module = module_of_file(Path(file), "function")
    if not hasattr(module, name):
        raise UsageError(f"function: {file} has no {name!r}")
    function = getattr(module, name)
    if not callable(function):
        raise UsageError(f"function: {name} of {file} must be a function, got {type(function).__name__}")
    try:
        found = function()
    except Exception as error:  # the user's code
        raise UsageError(f"function: {name}() of {file} fails: {type(error).__name__}: {error}") from error
    step, args = found if isinstance(found, tuple) and len(found) == 2 else (found, ())
    if not callable(step) or not isinstance(args, tuple | list):
        shown = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
        raise UsageError(f"function: {name}() of {file} must return a step or (step, arguments), got {shown}")
    return step, tuple(args)
