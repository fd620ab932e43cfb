"""What a program prints, as best effort: no work ends because nobody can read what is said about it.

A closed or full stdout or stderr, a reader that has ended, a terminal that has gone: what is printed from then on is
lost, and the work goes on. Characters that the terminal's encoding lacks are printed as escapes, and so are control
characters, which names out of files may have in them.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

#: Control characters but tab and newline; those that reverse the direction of text or divide lines; lone surrogates.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, *, lines: bool = False) -> str:
    """A text, such as a name out of a file, with control characters as escapes: "a\\x1b[2Jb". lines: keep newlines."""
    shown = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
    return shown if lines else shown.replace("\n", "\\n").replace("\t", "\\t")


class BestEffort:
    """A stream whose `write` and `flush` never raise OSError or UnicodeError, nor ValueError where it is closed.

    stream: the one that is written to; None, as Python has it where the descriptor is closed, for nowhere. error: the
    first OSError, after which nothing is written any more. escaped: whether control characters are.
    """

    def __init__(self, stream: TextIO | None, *, escaped: bool = False):
        self.stream, self.escaped, self._is_process_wide = stream, escaped, escaped
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write what can be written."""
        shown = printable(text, lines=True) if self.escaped else text
        if self.stream is not None and self.error is None:
            try:
                try:
                    self.stream.write(shown)
                except UnicodeError:
                    encoding = getattr(self.stream, "encoding", None) or "ascii"
                    self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
            except (OSError, ValueError) as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Let it be read, if that is possible."""
        if self.stream is not None and self.error is None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._fail(error)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self.stream is not None and self.stream.isatty()
        except (OSError, ValueError):
            return False

    def _fail(self, error: Exception) -> None:
        self.error = error if isinstance(error, OSError) else OSError(str(error))
        if not self._is_process_wide:
            return
        # What is in Python's buffers goes nowhere, too: it would be written, and raise, at the end of the process.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, cast(TextIO, self.stream).fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def stderr() -> BestEffort:
    """The current stderr, for messages and bars: one object, by which tqdm knows that both are on one terminal."""
    global _stderr
    stream = sys.stderr.stream if isinstance(sys.stderr, BestEffort) else sys.stderr
    if _stderr is None or _stderr.stream is not stream:
        _stderr = BestEffort(stream)
    return _stderr


_stderr: BestEffort | None = None


def install() -> None:
    """Let stdout and stderr be of this kind, in a program that is only fastgan's.

    Closed descriptors 0 to 2 are opened to nowhere first: a file that got one of these numbers would receive what C
    libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        setattr(sys, name, BestEffort(getattr(sys, name), escaped=True))


def lost() -> OSError | None:
    """After `install`: why not all that was printed to stdout could be written, or None."""
    sys.stdout.flush()
    return getattr(sys.stdout, "error", None)


@contextlib.contextmanager
def colors() -> Iterator[None]:
    """Within the block, control characters are written as they are: for text of ours with colors in it."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, BestEffort) and stream.escaped]
    for stream in streams:
        stream.escaped = False
    try:
        yield
    finally:
        for stream in streams:
            stream.escaped = True
