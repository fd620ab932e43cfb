"""Batches gathered ahead by a thread, for sets that do not stay on the device."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from torch import Tensor

RING = 3  # batches that may be ready, and pinned buffers to copy them from
_LEAVE_SECONDS = 5.0

Gathered = tuple[Tensor, "torch.cuda.Event | None"]


class Prefetch:
    """Gives `images[rows(0)]`, `images[rows(1)]`, ... as uint8 tensors on the device, gathered ahead by a thread.

    images: uint8 [N, C, H, W], any numpy array. rows: which images batch i takes, in order; called in the thread alone.
    What the thread raises, `next` raises. The thread ends with `close`, with this object, and with the process.
    """

    def __init__(self, images: np.ndarray, rows: Callable[[int], np.ndarray], device: torch.device):
        self._device = device
        self._ready: queue.Queue[Gathered | BaseException] = queue.Queue(RING)
        stop = threading.Event()
        # The thread must not know this object: as long as it did, the object could not be collected.
        gather = _gather_pinned(images, device) if device.type == "cuda" else _gather_plain(images, device)
        thread = threading.Thread(
            target=_work, args=(gather, rows, self._ready, stop), name="fastgan-prefetch", daemon=True
        )
        self.close = weakref.finalize(self, _leave, thread, self._ready, stop)
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
            batch.record_stream(stream)  # its memory belongs to the copying stream, which must not reuse it yet
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


def _leave(thread: threading.Thread, ready: queue.Queue, stop: threading.Event) -> None:
    stop.set()
    # A thread that waits for room finds some now, puts one batch and sees that it is to stop.
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            break
    if thread is not threading.current_thread():  # a collection may run in any thread
        thread.join(_LEAVE_SECONDS)


def _gather_plain(images: np.ndarray, device: torch.device) -> Callable[[np.ndarray], Gathered]:
    def gather(rows: np.ndarray) -> Gathered:
        return torch.from_numpy(images[rows]).to(device), None

    return gather


def _gather_pinned(images: np.ndarray, device: torch.device) -> Callable[[np.ndarray], Gathered]:
    """Through pinned buffers, so that the copies run beside the computation, on a stream of their own."""
    side = torch.cuda.Stream(device)
    buffers: list[Tensor] = []
    copies: list[torch.cuda.Event] = []
    turn = count()

    def gather(rows: np.ndarray) -> Gathered:
        if not buffers:
            shape = (len(rows), *images.shape[1:])
            buffers.extend(torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(RING))
        i = next(turn) % RING
        if len(copies) > i:
            copies[i].synchronize()  # the copy before out of this buffer
        # In this mode alone numpy writes into `out` itself.
        np.take(images, rows, axis=0, out=buffers[i].numpy(), mode="clip")
        with torch.cuda.stream(side):
            batch = buffers[i].to(device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(side)
        copies[i : i + 1] = [copied]
        return batch, copied

    return gather
