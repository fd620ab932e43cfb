"""Batches gathered in advance by a thread, for sets that are not resident on the device."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from torch import Tensor

RING = 3  # batches ready in advance, and pinned buffers
_JOIN_SECONDS = 5.0

Gathered = tuple[Tensor, "torch.cuda.Event | None"]


class Prefetch:
    """Iterates over `images[rows(0)]`, `images[rows(1)]`, ... as uint8 tensors on the device, gathered by a thread.

    images: uint8 [N, C, H, W], any numpy array. rows: batch number → indices of its images, int64 [batch]; called in
    the thread only. `next` raises the thread's errors. The thread ends with `close`, with this object, and with the
    process.
    """

    def __init__(self, images: np.ndarray, rows: Callable[[int], np.ndarray], device: torch.device):
        self._device = device
        self._ready: queue.Queue[Gathered | BaseException] = queue.Queue(RING)
        stop = threading.Event()
        # The thread holds no reference to this object, which could not be garbage-collected otherwise.
        gather = _gather_pinned(images, device) if device.type == "cuda" else _gather_plain(images, device)
        thread = threading.Thread(
            target=_work, args=(gather, rows, self._ready, stop), name="fastgan-prefetch", daemon=True
        )
        self.close = weakref.finalize(self, _stop, thread, self._ready, stop)
        thread.start()

    def __next__(self) -> Tensor:
        item = self._ready.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        batch, copied = item
        if copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(copied)
            batch.record_stream(stream)  # allocated on the copying stream, which must not reuse it yet
        return batch


def _work(
    gather: Callable[[np.ndarray], Gathered],
    rows: Callable[[int], np.ndarray],
    ready: queue.Queue[Gathered | BaseException],
    stop: threading.Event,
) -> None:
    try:
        for i in count():
            item = gather(rows(i))
            ready.put(item)
            if stop.is_set():
                return
    except BaseException as error:
        ready.put(error)


def _stop(thread: threading.Thread, ready: queue.Queue, stop: threading.Event) -> None:
    stop.set()
    # A thread blocked in put() continues once the queue is empty, and then sees `stop`.
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            break
    if thread is not threading.current_thread():  # garbage collection may run in any thread
        thread.join(_JOIN_SECONDS)


def _gather_plain(images: np.ndarray, device: torch.device) -> Callable[[np.ndarray], Gathered]:
    def gather(rows: np.ndarray) -> Gathered:
        return torch.from_numpy(images[rows]).to(device), None

    return gather


def _gather_pinned(images: np.ndarray, device: torch.device) -> Callable[[np.ndarray], Gathered]:
    """Copy through pinned buffers on a separate stream, so that copies overlap with computation."""
    side = torch.cuda.Stream(device)
    buffers: list[Tensor] = []
    copies: list[torch.cuda.Event] = []
    calls = count()

    def gather(rows: np.ndarray) -> Gathered:
        if not buffers:
            shape = (len(rows), *images.shape[1:])
            buffers.extend(torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(RING))
        i = next(calls) % RING
        if len(copies) > i:
            copies[i].synchronize()  # the previous copy from this buffer
        # numpy writes directly into `out` only with mode="clip".
        np.take(images, rows, axis=0, out=buffers[i].numpy(), mode="clip")
        with torch.cuda.stream(side):
            batch = buffers[i].to(device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(side)
        copies[i : i + 1] = [copied]
        return batch, copied

    return gather
