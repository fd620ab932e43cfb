"""Ctrl-C, SIGTERM and SIGHUP in long work that should end between two steps."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopSignals:
    """While it lasts, Ctrl-C, SIGTERM or SIGHUP (the terminal has gone) set `requested`, so that the step in progress
    ends first; a second Ctrl-C ends at once. Several ranks agree on the step at which to end where they pause anyway:
    to log, sample or save. Under nohup SIGHUP stays ignored.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self.requested = False
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: Any) -> None:
        # A scheduler may reach each rank twice, once by way of torchrun.
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
