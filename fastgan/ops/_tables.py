"""Small integer tensors on a device that hold the addresses and sizes of many tensors, for one launch over all."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

CAPACITY = 256  # tables kept for later calls, some KB each
RESERVE = 1 << 17  # int64 numbers of pinned memory allocated in advance for captures


class Tables:
    """A cache of tables by their content. No method synchronizes with a device.

    A copy from pinned memory returns at once, and PyTorch reuses that memory only after the copy is done. Keys include
    the stream: a table is written, read, and after its eviction overwritten in the order of one stream alone.

    While a CUDA graph is captured nothing runs: a captured table is filled by each replay and by nothing else. Hence
    captured tables are made anew and never cached. Their device memory belongs to the graph, like that of any captured
    tensor, but each replay copies from the pinned memory again: a copy on another stream, outside of the graph, has to
    be finished before the first replay, so the host would have to wait for it during the capture. (The CUDA C++ kernels
    take addresses in their arguments and need no table.) Since nothing reports when a graph is deleted, the pinned
    memory is never freed. It is taken from a reserve that ordinary calls allocate, because allocating pinned memory
    queries the events of other copies, which is forbidden during a capture.
    """

    def __init__(self) -> None:
        self._cached: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._reserve: Tensor | None = None
        self._captured: list[Tensor] = []
        self._lock = threading.Lock()  # autograd runs backward passes in other threads

    def get(self, device: torch.device, key: Hashable, numbers: Callable[[], list[int]]) -> Tensor:
        """numbers() as int64 on the device, for kernels of its current stream. Equal keys mean equal numbers."""
        if device.type == "cpu":
            return torch.tensor(numbers())
        with self._lock:
            if torch.cuda.is_current_stream_capturing():
                return self._for_replay(device, numbers())
            self._refill()
            key = key, device, torch.cuda.current_stream(device).cuda_stream
            table = self._cached.pop(key, None)
            if table is None:
                table = torch.tensor(numbers(), pin_memory=True).to(device, non_blocking=True)
            self._cached[key] = table
            if len(self._cached) > CAPACITY:
                self._cached.popitem(last=False)
            return table

    def _refill(self) -> None:
        if self._reserve is None or len(self._reserve) < RESERVE // 2:
            self._reserve = torch.empty(RESERVE, dtype=torch.int64, pin_memory=True)

    def _for_replay(self, device: torch.device, numbers: list[int]) -> Tensor:
        size = len(numbers)
        if self._reserve is None or len(self._reserve) < size:
            # Only if a capture comes before any other call, or contains hundreds of calls.
            self._reserve = torch.empty(max(size, RESERVE), dtype=torch.int64, pin_memory=True)
        host, self._reserve = self._reserve[:size], self._reserve[size:]
        host.copy_(torch.tensor(numbers))
        self._captured.append(host)
        return host.to(device, non_blocking=True)


tables = Tables()
