"""Threads that write images while the network works on the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastgan.errors import FastganError
from fastgan.upscale.image.read import DecodedImage
from fastgan.upscale.image.write import make_folder, write
from fastgan.upscale.thread_pipeline import BoundedQueue

ENCODERS = 2  # threads: encoding a PNG takes as long as a fast network
_STRIPS = 2  # of one image, computed and not yet written

StripQueue = BoundedQueue[np.ndarray]


@dataclass(frozen=True)
class Job:
    """The file to read and the file to write; animated: whether the first has several frames."""

    source: Path
    out: Path
    animated: bool = False


@dataclass
class JobResult:
    """A finished job: notes on what the format could not keep, or the error."""

    job: Job
    notes: list[str]
    error: FastganError | MemoryError | None = None


class EncoderPool:
    """A context manager with threads that write images; jobs that are unfinished at its end are canceled."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(ENCODERS, thread_name_prefix="fastgan-encode")
        self._pending: deque[tuple[Job, StripQueue, Future[list[str]]]] = deque()

    def __enter__(self) -> EncoderPool:
        return self

    def __exit__(self, *error: object) -> None:
        for _, strips, _ in self._pending:
            strips.cancel()
        self._pool.shutdown(cancel_futures=True)

    def start(self, job: Job, height: int, width: int, source: DecodedImage) -> StripQueue:
        """Start to write an image of that size; returns the queue for its rows, in strips [h, width, C].

        source: the image that it is made from (see `write`).
        """
        strips: StripQueue = BoundedQueue(_STRIPS)

        def work() -> list[str]:
            try:
                make_folder(job.out)
                return source.notes + write(job.out, height, width, strips, source)
            finally:
                strips.close()

        self._pending.append((job, strips, self._pool.submit(work)))
        return strips

    def cancel_last(self) -> None:
        """Cancel the job started last, whose rows are incomplete: no file of it remains."""
        _, strips, future = self._pending.pop()
        strips.cancel()
        future.cancel()

    def results(self, max_pending: int) -> Iterator[JobResult]:
        """Wait for the oldest jobs until at most `max_pending` are left."""
        while len(self._pending) > max_pending:
            job, _, future = self._pending[0]
            try:
                result = JobResult(job, future.result())
            except (FastganError, MemoryError) as error:
                result = JobResult(job, [], error)
            self._pending.popleft()
            yield result
