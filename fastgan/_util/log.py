"""Where fastgan's messages go: Python's `logging`, below the logger "fastgan".

A program that configures logging gets the messages by its own handlers. In one that does not, INFO and above are printed
to stderr, one line each, above a progress bar that may be there: training says what it does without further setup.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

#: The parent of every module's logger.
ROOT = logging.getLogger("fastgan")


class _Stderr(logging.Handler):
    """Prints the bare message; silent where the program has handlers of its own, unless told to print always."""

    always = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.always and logging.getLogger().handlers:
            return
        try:
            from tqdm import tqdm

            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


_handler = _Stderr()


def install() -> None:
    """Print messages where nobody else handles them. Called once, when fastgan is imported."""
    if _handler not in ROOT.handlers:
        ROOT.addHandler(_handler)
        if ROOT.level == logging.NOTSET:
            ROOT.setLevel(logging.INFO)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """While it lasts, messages are printed whatever the program has configured: for the command line."""
    before, _handler.always = _handler.always, True
    try:
        yield
    finally:
        _handler.always = before


def silence() -> None:
    """Only errors from now on: for all ranks but the first."""
    ROOT.setLevel(logging.ERROR)
