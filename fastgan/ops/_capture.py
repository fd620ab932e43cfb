"""Who wants to know that a step is about to be captured as a graph.

What Python remembers from run to run is fixed at that moment: a spectral norm that has iterated since the optimizer's
last step would be captured without its iteration.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[], Callable[[], None]]] = []


def on_capture(listener: Callable[[], Callable[[], None]]) -> None:
    """Call `listener` before each run of a step that captures it; it returns what takes that back."""
    _listeners.append(listener)


def before_capture() -> Callable[[], None]:
    """Tell the listeners. Returns what lets Python remember again what it did before, after runs that were undone."""
    undo = [listener() for listener in _listeners]

    def take_back() -> None:
        for one in undo:
            one()

    return take_back
