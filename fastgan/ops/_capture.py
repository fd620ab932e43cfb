"""Callbacks that run before a training step is captured as a graph.

State that Python keeps from run to run is fixed in the graph. For example, a spectral norm that has already iterated
since the last optimizer step would be captured without its power iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_listeners: list[Callable[[], Callable[[], None]]] = []


def on_capture(listener: Callable[[], Callable[[], None]]) -> None:
    """Call `listener` before each run of a step that captures it. It returns a function that undoes its change."""
    _listeners.append(listener)


def before_capture() -> Callable[[], None]:
    """Call the listeners. Returns a function that restores their state, for runs whose effects are undone."""
    restores = [listener() for listener in _listeners]

    def restore() -> None:
        for one in restores:
            one()

    return restore


def is_capturable(value: Any, unknown: bool = False) -> bool:
    """Whether a hook or module does the same in each replay of a graph as in a run of Python.

    Those of fastgan say so by an attribute `capturable`, a hook that is a method by that of its object; `unknown` is
    returned for all others.
    """
    return bool(getattr(getattr(value, "__self__", value), "capturable", unknown))
