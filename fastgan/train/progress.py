"""The live line in the terminal; where there is no terminal, a plain line now and then."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO

QUIET_SECONDS = 10.0


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Shows step, images per second, time left, what is wrong, and losses."""

    def __init__(self, steps: int, stream: TextIO | None = None):
        self._steps = steps
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._width = 0
        self._last = 0.0

    def show(
        self, step: int, images_per_second: float, seconds_left: float, losses: dict[str, float], wrong: Sequence[str]
    ) -> None:
        """Show the state after `step`. wrong: names of the verdicts that hold now, the gravest first."""
        now = time.monotonic()
        if not self._live and step < self._steps and now - self._last < QUIET_SECONDS:
            return
        self._last = now
        named = "  ".join(f"{name} {value:+.3f}" for name, value in losses.items())
        speed, left, verdict = f"{images_per_second:.0f} img/s", f"{clock(seconds_left)} left", ", ".join(wrong)
        text = f"step {step}/{self._steps}  {speed}  {left}  {verdict or 'nothing wrong'}  {named}".rstrip()
        if self._live:
            # A line that wraps could not be written over.
            text = text[: shutil.get_terminal_size().columns - 1].rstrip()
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def say(self, sentence: str) -> None:
        """Print a sentence on a line of its own."""
        self.close()
        self._stream.write(sentence + "\n")
        self._stream.flush()

    def close(self) -> None:
        """End the live line."""
        if self._width:
            self._stream.write("\n")
            self._width = 0


class Silent(Progress):
    """Of the ranks that train together, all but the first."""

    def show(self, *_: object) -> None: ...

    def say(self, sentence: str) -> None: ...
