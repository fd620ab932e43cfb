"""fastgan's messages: Python's `logging`, below the logger "fastgan".

A program that configures logging receives the messages in its own handlers. In one that does not, INFO and above are
printed to stderr, one line each, without breaking a tqdm progress bar.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastgan._util import output
from fastgan._util.notebook import has_widgets, in_notebook

if TYPE_CHECKING:
    from tqdm import tqdm

#: The parent of every module's logger.
ROOT = logging.getLogger("fastgan")


@functools.cache
def bars() -> type[tqdm]:
    """The class of progress bars: tqdm with a lock that belongs to this process alone, and without its thread.

    tqdm's own lock is shared with forked processes: one that is killed while it prints makes all others wait for ever.
    In a notebook that has ipywidgets it is tqdm's bar for notebooks.
    """
    if in_notebook() and has_widgets():
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0

    Bar.set_lock(threading.RLock())
    return Bar


class _Stderr(logging.Handler):
    """Prints the message alone; silent where the root logger has handlers, unless `always` is set."""

    always = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.always and logging.getLogger().handlers:
            return
        try:
            bars().write(output.printable(self.format(record), lines=True), file=output.stderr())
        except Exception:
            self.handleError(record)


_handler = _Stderr()


def install() -> None:
    """Print messages where the program has no handlers. Called once, when fastgan is imported."""
    if _handler not in ROOT.handlers:
        ROOT.addHandler(_handler)
        if ROOT.level == logging.NOTSET:
            ROOT.setLevel(logging.INFO)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Within the block, messages are printed even where the root logger has handlers: for the command line."""
    before, _handler.always = _handler.always, True
    try:
        yield
    finally:
        _handler.always = before


def silence() -> None:
    """Log errors only from now on: for all ranks but the first."""
    ROOT.setLevel(logging.ERROR)
