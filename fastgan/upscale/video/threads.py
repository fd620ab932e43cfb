"""Stages that work at the same time: each in a thread, a short queue before each, and how busy each was."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Gone(Exception):
    """Nobody takes the items of a queue any more."""


class Aborted(Exception):
    """What a queue ends with when its items are not to be made use of."""


class Queue(Generic[T]):
    """Holds at most `room` items between two threads. What the producer ends with, the consumer raises after the last.

    waited: seconds that the consumer has spent waiting.
    """

    def __init__(self, room: int):
        self._room = room
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._left = False
        self._error: BaseException | None = None
        self.waited = 0.0

    def put(self, item: T) -> None:
        """Wait for room. Raises Gone when the consumer has left."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._room or self._left)
            if self._left:
                raise Gone
            self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more items come."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
                self._changed.notify_all()

    def leave(self) -> None:
        """No more items are taken; those that wait are let go."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended or self._left)
            self.waited += time.perf_counter() - start
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            raise StopIteration


class Line:
    """Threads in a row. busy: seconds of work of each stage so far, waiting left out."""

    def __init__(self) -> None:
        self.busy: dict[str, float] = {}
        self._threads: list[threading.Thread] = []

    def stage(
        self, name: str, work: Callable[[Iterator[T]], Iterable[R]], source: Queue[T] | None, *, room: int
    ) -> Queue[R]:
        """Run work(source), which yields what becomes of the items, in a thread. Returns the queue of its results.

        A source of None stands for one without items: the first stage reads a file. What the work raises comes out of
        the queue after the results before it, and the stages upstream end.
        """
        results: Queue[R] = Queue(room)
        self.busy[name] = 0.0
        thread = threading.Thread(
            target=self._run, args=(name, work, source, results), name=f"fastgan-video-{name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()
        return results

    def _run(
        self, name: str, work: Callable[[Iterator[T]], Iterable[R]], source: Queue[T] | None, results: Queue[R]
    ) -> None:
        error: BaseException | None = None
        upstream: Queue[T] = Queue(1) if source is None else source
        if source is None:
            upstream.end()
        produced = iter(work(upstream))
        try:
            while True:
                start, waited = time.perf_counter(), upstream.waited
                try:
                    item = next(produced)
                finally:
                    self.busy[name] += time.perf_counter() - start - (upstream.waited - waited)
                results.put(item)
        except (StopIteration, Gone):
            pass
        except BaseException as came:
            error = came
        try:
            # A generator that is left in the middle closes its files now, in its own thread.
            getattr(produced, "close", lambda: None)()
        except BaseException as came:
            error = error or came
        upstream.leave()
        results.end(error)

    def join(self) -> None:
        """Wait until all threads have ended."""
        for thread in self._threads:
            thread.join()
