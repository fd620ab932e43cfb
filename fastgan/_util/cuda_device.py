"""The current GPU as `fastgan._util.timing` measures it."""

from __future__ import annotations

import time

import torch

#: Several times the L2 cache of today's GPUs (60 MB on an H200, 126 MB on a B200).
_FLUSH_BYTES = 512 * 2**20


class CudaDevice:
    """A `Device` for timing: the current CUDA device and its current stream."""

    def __init__(self) -> None:
        self._flush: torch.Tensor | None = None

    def now(self) -> float:
        return time.perf_counter()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def clear_cache(self) -> None:
        if self._flush is None:
            self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")
        self._flush.zero_()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: torch.cuda.Event, last: torch.cuda.Event) -> float:
        return first.elapsed_time(last)
