"""The pinned-memory path without a GPU: streams and events are fakes that keep a log. tests/gpu uses real ones."""

import contextlib
import itertools
import time

import numpy as np
import pytest
import torch

from fastgan.data import prefetch
from fastgan.data.prefetch import RING, Prefetch

IMAGES = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)


@pytest.fixture
def log(monkeypatch):
    """The operations on the buffers, in order: ("fill", buffer), ("copied", event) and ("waited", event)."""
    events, numbers = [], itertools.count()

    class Event:
        def __init__(self):
            self.number = next(numbers)

        def record(self, stream):
            assert stream == "side"
            events.append(("copied", self.number))

        def synchronize(self):
            events.append(("waited", self.number))

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "side")
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    empty, take, addresses = torch.empty, np.take, []
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory, **options: empty(*shape, **options))

    def logged(*given, out, **options):
        if out.ctypes.data not in addresses:
            addresses.append(out.ctypes.data)
        events.append(("fill", addresses.index(out.ctypes.data)))
        return take(*given, out=out, **options)

    monkeypatch.setattr(np, "take", logged)
    return events


def test_a_buffer_is_filled_again_only_after_its_copy(log):
    gather = prefetch._gather_pinned(IMAGES, torch.device("cpu"))
    for i in range(2 * RING + 1):
        batch, _ = gather(np.array([i, 39 - i]))
        assert batch.flatten().tolist() == [i, 39 - i]
    expected = []
    for i in range(2 * RING + 1):
        expected += [("waited", i - RING)] if i >= RING else []
        expected += [("fill", i % RING), ("copied", i)]
    assert log == expected


def test_the_consumer_waits_for_the_copy_and_keeps_the_memory(log, monkeypatch):
    calls = []

    class Current:
        def wait_event(self, event):
            calls.append(("wait", event.number))

    current = Current()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda batch, stream: calls.append(("keep", stream)))
    monkeypatch.setattr(prefetch, "_gather_plain", prefetch._gather_pinned)
    ahead = Prefetch(IMAGES, lambda i: np.array([i]), torch.device("cpu"))
    next(ahead)
    next(ahead)
    ahead.close()
    assert calls == [("wait", 0), ("keep", current), ("wait", 1), ("keep", current)]


def test_batches_are_ready_before_they_are_requested_for():
    requested = []
    ahead = Prefetch(IMAGES, lambda i: (requested.append(i), np.array([i]))[1], torch.device("cpu"))
    next(ahead)
    deadline = time.monotonic() + 30
    while len(requested) < RING + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert requested == list(range(RING + 2))  # one yielded, RING ready, one blocked in put()
    ahead.close()


def test_closing_twice_and_while_the_thread_waits():
    ahead = Prefetch(IMAGES, lambda i: np.array([i]), torch.device("cpu"))
    while not ahead._ready.full():
        pass
    ahead.close()
    ahead.close()
    assert not any(thread.name == "fastgan-prefetch" for thread in prefetch.threading.enumerate())
