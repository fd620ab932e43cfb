"""How far decoding has come: a live line in a terminal; elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LIVE_SECONDS = 0.1
QUIET_SECONDS = 10.0


class Counter:
    """Counts things done of a known total and shows them with their rate and the time left.

    doing: what is shown before the count, such as "packing photos". total: how many there are, of what: `things`.
    """

    def __init__(self, doing: str, total: int, stream: TextIO | None = None, things: str = "images"):
        self._doing, self._total, self._things = doing, total, things
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._done = self._width = 0
        self._start = self._shown = time.monotonic()

    def add(self) -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if now - self._shown >= (LIVE_SECONDS if self._live else QUIET_SECONDS):
            self._shown = now
            self._show(now - self._start)

    def close(self) -> None:
        """End the live line, so that what is said next has a line of its own."""
        if self._width:
            self._show(time.monotonic() - self._start)
            self._stream.write("\n")
            self._width = 0

    def _show(self, seconds: float) -> None:
        rate = self._done / max(seconds, 1e-9)
        left = round((self._total - self._done) / rate)
        text = (
            f"{self._doing}: {self._done:,} of {self._total:,} {self._things}, {_digits(rate)} per second, "
            f"{left // 60}:{left % 60:02d} left"
        )
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def _digits(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or rate == int(rate) else f"{rate:.2g}"
