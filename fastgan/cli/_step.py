"""A training step that a user names on the command line, as FILE:FUNCTION."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastgan._util.user_code import module_of_file
from fastgan.errors import UsageError

#: The type of an option that names a step.
StepName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE:FUNCTION")]


def step_of(text: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The step that FILE:FUNCTION gives, and its arguments."""
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
