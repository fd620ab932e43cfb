"""Who wants to know that a step is about to be captured as a graph.

What Python remembers from run to run is fixed at that moment: a spectral norm that has iterated since the optimiser's
last step would be captured without its iteration.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def on_capture(listener: Callable[[], None]) -> None:
    """Call `listener` before each run of a step that captures it."""
    _listeners.append(listener)


def before_capture() -> None:
    """Tell the listeners."""
    for listener in _listeners:
        listener()
