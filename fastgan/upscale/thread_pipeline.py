"""A pipeline of threads with bounded queues between its stages. Measures how long each stage works."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class ConsumerClosedError(Exception):
    """Raised by `BoundedQueue.put` when the consumer has closed the queue."""


class CancelledError(Exception):
    """Raised by the iteration over a queue whose producer was canceled: the items so far are to be discarded."""


class BoundedQueue(Generic[T]):
    """A queue of at most `capacity` items between one producer and one consumer thread, which iterates over it.

    wait_seconds: time that the consumer has spent waiting for items.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._closed = False
        self._error: BaseException | None = None
        self.wait_seconds = 0.0

    def put(self, item: T) -> None:
        """Add an item; blocks while the queue is full. Raises ConsumerClosedError when the consumer has closed it."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._capacity or self._closed)
            if self._closed:
                raise ConsumerClosedError
            self._items.append(item)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """End the queue: after the last item the iteration stops, or raises `error`. Only the first call counts."""
        with self._changed:
            if not self._finished:
                self._finished, self._error = True, error
                self._changed.notify_all()

    def cancel(self) -> None:
        """End the queue, also a finished one: waiting items are dropped and the iteration raises CancelledError."""
        with self._changed:
            self._items.clear()
            self._finished, self._error = True, CancelledError()
            self._changed.notify_all()

    def close(self) -> None:
        """For the consumer: take no more items. Waiting items are dropped, and `put` raises."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finished or self._closed)
            self.wait_seconds += time.perf_counter() - start
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            raise StopIteration


class ThreadPipeline:
    """Stages that run at the same time, each in a thread. busy_seconds: working time of each stage, without waiting."""

    def __init__(self) -> None:
        self.busy_seconds: dict[str, float] = {}
        self._threads: list[threading.Thread] = []

    def stage(
        self, name: str, work: Callable[[Iterator[T]], Iterable[R]], source: BoundedQueue[T] | None, *, capacity: int
    ) -> BoundedQueue[R]:
        """Iterate over work(source) in a new thread and return the queue of its results.

        source: the queue of the previous stage; None for the first stage, whose `work` gets an empty iterator.
        capacity: of the result queue. An error of `work` is raised by the result queue after the results before it,
        and the previous stages end.
        """
        results: BoundedQueue[R] = BoundedQueue(capacity)
        self.busy_seconds[name] = 0.0
        thread = threading.Thread(
            target=self._run, args=(name, work, source, results), name=f"fastgan-video-{name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()
        return results

    def _run(
        self,
        name: str,
        work: Callable[[Iterator[T]], Iterable[R]],
        source: BoundedQueue[T] | None,
        results: BoundedQueue[R],
    ) -> None:
        error: BaseException | None = None
        upstream: BoundedQueue[T] = BoundedQueue(1) if source is None else source
        if source is None:
            upstream.finish()
        produced = iter(work(upstream))
        try:
            while True:
                start, waited = time.perf_counter(), upstream.wait_seconds
                try:
                    item = next(produced)
                finally:
                    self.busy_seconds[name] += time.perf_counter() - start - (upstream.wait_seconds - waited)
                results.put(item)
        except (StopIteration, ConsumerClosedError):
            pass
        except BaseException as raised:
            error = raised
        try:
            # An unfinished generator closes its files now, in its own thread.
            getattr(produced, "close", lambda: None)()
        except BaseException as raised:
            error = error or raised
        upstream.close()
        results.finish(error)

    def join(self) -> None:
        """Wait until all threads have ended."""
        for thread in self._threads:
            thread.join()
