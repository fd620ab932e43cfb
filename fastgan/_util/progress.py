"""Progress of long work: tqdm's bar in a terminal and in a notebook, a log line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import time
from typing import TextIO

from fastgan._util import output
from fastgan._util.log import bars
from fastgan._util.notebook import in_notebook
from fastgan._util.output import printable

_logger = logging.getLogger(__name__)

#: Seconds between two lines where there is no terminal.
QUIET_SECONDS = 10.0


class Progress:
    """Shows how many of a total are done, the rate and the time left.

    doing: what stands before the count, such as "packing photos". total: how many there are; None if it is not known.
    unit: what they are. before: how many were done before this began. each_note: where there is no
    terminal, a line with each note instead of one every ten seconds. quiet: show nothing, as on ranks other than 0.
    """

    def __init__(
        self,
        doing: str,
        total: int | None,
        stream: TextIO | None = None,
        *,
        unit: str = "images",
        before: int = 0,
        each_note: bool = False,
        quiet: bool = False,
    ):
        doing = printable(doing)
        # Bars move the cursor by control characters.
        shown = output.stderr() if stream is None else output.BestEffort(stream)
        self._doing, self._total, self._unit, self._before, self._done = doing, total, unit, before, before
        self._start = self._shown = time.monotonic()
        self._live = (shown.isatty() or in_notebook()) and not quiet
        self._quiet, self._each_note = quiet, each_note
        self._bar = bars()(
            total=total, desc=doing, unit=f" {unit}", initial=before, file=shown, disable=not self._live,
            dynamic_ncols=True, mininterval=0.2,
        )  # fmt: skip

    def add(self, count: int = 1, note: str = "") -> None:
        """Advance by `count`. note: shown after the bar, or at the end of the line."""
        self._done += count
        if note and self._live:
            self._bar.set_postfix_str(printable(note), refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        due = bool(note) if self._each_note else now - self._shown >= QUIET_SECONDS
        if due and not self._live and not self._quiet:
            self._shown = now
            _logger.info("%s", self._line(now - self._start, note))

    def move_to(self, done: int) -> None:
        """Count on from another number, as after going back."""
        self._before += done - self._done  # the rate counts what was done in this process
        self._done = self._bar.n = done

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _line(self, seconds: float, note: str) -> str:
        rate = (self._done - self._before) / max(seconds, 1e-9)
        of = "" if self._total is None else f" of {self._total:,}"
        text = f"{self._doing}: {self._done:,}{of} {self._unit}, {_rate(rate)} per second"
        if self._total is not None and rate:
            left = max(0, round((self._total - self._done) / rate))
            text += f", {left // 60}:{left % 60:02d} left"
        return f"{text}  {note}".rstrip()


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
