"""How far a long work has come: a live line in a terminal; elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LIVE_SECONDS = 0.1
QUIET_SECONDS = 10.0


class Counter:
    """Counts things done of a total and shows them with their rate and the time left.

    doing: what is shown before the count, such as "packing photos". total: how many there are; None: not known, and so
    no time left. unit: what they are. before: how many were done before this began.
    """

    def __init__(
        self, doing: str, total: int | None, stream: TextIO | None = None, *, unit: str = "images", before: int = 0
    ):
        self._doing, self._total, self._unit, self._before = doing, total, unit, before
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._done = self._width = 0
        self._start = self._shown = time.monotonic()

    def add(self, count: int = 1) -> None:
        """One more is done, or several."""
        self._done += count
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
        done = self._before + self._done
        of = "" if self._total is None else f" of {self._total:,}"
        text = f"{self._doing}: {done:,}{of} {self._unit}, {_rate(rate)} per second"
        if self._total is not None and rate:
            left = max(0, round((self._total - done) / rate))
            text += f", {left // 60}:{left % 60:02d} left"
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
