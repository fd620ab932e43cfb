"""Small tables of integers on a device, by which one launch serves a whole list of tensors: addresses and sizes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

CAPACITY = 256  # tables kept for calls to come, some KB each
RESERVE = 1 << 17  # numbers of pinned memory set aside for captures


class Tables:
    """Tables by what they hold. Nothing here waits for a device.

    A copy from pinned memory returns at once, and PyTorch reuses that memory only when the copy is done. Keys hold the
    stream: a table is written, read, and after its eviction overwritten in the order of one stream alone.

    Under the capture of a CUDA graph nothing runs: a table from then is filled by each replay and by nothing else.
    Hence captured tables are made anew and never kept for others. Their device memory is the graph's like that of any
    captured tensor, but the replayed copy reads the pinned memory again. Nobody tells when a graph dies, so that memory
    is never given back. It comes from a reserve that ordinary calls fill, since allocating pinned memory asks events of
    other copies, which is forbidden during a capture.
    """

    def __init__(self) -> None:
        self._ready: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._reserve: Tensor | None = None
        self._captured: list[Tensor] = []
        self._lock = threading.Lock()  # backward passes run in threads of their own

    def get(self, device: torch.device, key: Hashable, numbers: Callable[[], list[int]]) -> Tensor:
        """numbers() as int64 on the device, for kernels of its current stream. Equal keys mean equal numbers."""
        if device.type == "cpu":
            return torch.tensor(numbers())
        with self._lock:
            if torch.cuda.is_current_stream_capturing():
                return self._for_replay(device, numbers())
            self._refill()
            key = key, device, torch.cuda.current_stream(device).cuda_stream
            table = self._ready.pop(key, None)
            if table is None:
                table = torch.tensor(numbers(), pin_memory=True).to(device, non_blocking=True)
            self._ready[key] = table
            if len(self._ready) > CAPACITY:
                self._ready.popitem(last=False)
            return table

    def _refill(self) -> None:
        if self._reserve is None or len(self._reserve) < RESERVE // 2:
            self._reserve = torch.empty(RESERVE, dtype=torch.int64, pin_memory=True)

    def _for_replay(self, device: torch.device, numbers: list[int]) -> Tensor:
        size = len(numbers)
        if self._reserve is None or len(self._reserve) < size:
            # Only where a capture comes before any other call, or holds hundreds of them.
            self._reserve = torch.empty(max(size, RESERVE), dtype=torch.int64, pin_memory=True)
        host, self._reserve = self._reserve[:size], self._reserve[size:]
        host.copy_(torch.tensor(numbers))
        self._captured.append(host)
        return host.to(device, non_blocking=True)


tables = Tables()
