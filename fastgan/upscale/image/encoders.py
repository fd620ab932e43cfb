"""Threads that write pictures while the network works on the next."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastgan.errors import FastganError, UsageError
from fastgan.upscale.image.read import Picture
from fastgan.upscale.image.write import write

ENCODERS = 2  # threads: PNG takes as long to write as a fast network to compute
_STRIPS = 2  # of one picture, computed and not yet written


@dataclass(frozen=True)
class Job:
    """A file to read and the file to write."""

    source: Path
    out: Path


@dataclass
class Settled:
    """A job that is done, with what could not be kept; or one that failed."""

    job: Job
    notes: list[str]
    error: FastganError | MemoryError | None = None


class Strips:
    """The rows of one picture on their way from the network to the thread that writes them."""

    def __init__(self) -> None:
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(_STRIPS)
        self._left, self._cancelled = threading.Event(), threading.Event()

    def put(self, rows: np.ndarray | None) -> bool:
        """Waits for room. False where the writer has left."""
        if self._left.is_set():
            return False
        self._queue.put(rows)  # a writer that leaves makes room
        return True

    def end(self) -> None:
        """All rows have come."""
        self.put(None)

    def cancel(self) -> None:
        """No more rows will come: what was written is worth nothing."""
        self._cancelled.set()
        self._empty()
        self.put(None)

    def leave(self) -> None:
        """The writer takes no more."""
        self._left.set()
        self._empty()

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            rows = self._queue.get()
            if self._cancelled.is_set():
                raise CancelledError
            if rows is None:
                return
            yield rows

    def _empty(self) -> None:
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return


class CancelledError(Exception):
    """The picture's rows ended before it was whole."""


class Encoders:
    """Threads that write pictures. When its block is left, all are written or given up."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(ENCODERS, thread_name_prefix="fastgan-encode")
        self._pending: deque[tuple[Job, Strips, Future[list[str]]]] = deque()

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, *error: object) -> None:
        for _, strips, _ in self._pending:
            strips.cancel()
        self._pool.shutdown()

    def begin(self, job: Job, height: int, width: int, picture: Picture) -> Strips:
        """Start the file of one picture, to which rows are then given."""
        strips = Strips()

        def work() -> list[str]:
            try:
                try:
                    job.out.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise UsageError(f"out: {job.out.parent} cannot be made: {error.strerror or error}") from error
                return picture.notes + write(job.out, height, width, strips, picture)
            finally:
                strips.leave()

        self._pending.append((job, strips, self._pool.submit(work)))
        return strips

    def forget(self) -> None:
        """The last picture begun will not be whole: leave no file of it."""
        _, strips, future = self._pending.pop()
        strips.cancel()
        future.cancel()

    def settled(self, most: int) -> Iterator[Settled]:
        """Wait for the oldest until no more than `most` are being written."""
        while len(self._pending) > most:
            job, _, future = self._pending[0]
            try:
                settled = Settled(job, future.result())
            except (FastganError, MemoryError) as error:
                settled = Settled(job, [], error)
            self._pending.popleft()
            yield settled
