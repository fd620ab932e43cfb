"""The CUDA C++ kernels of csrc/cuda on a GPU: found, loaded and launched.

They are part of fastgan._cuda if nvcc compiled it at installation, for this GPU's architecture among others. Otherwise
NVRTC compiles them, once. A kernel takes one structure, which the caller packs into bytes, so that a launch costs the
same for one tensor and for a hundred.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from fastgan._util import cuda_driver, native, nvrtc

OLDEST = (8, 0)  # compute capability: asynchronous copies to shared memory

#: The kernels of each source file csrc/cuda/NAME.cuh.
KERNELS = {
    "adam_ema": [f"{name}_{element}" for name in ("check_gradients", "adam_ema") for element in ("float", "double")],
    "spectral_norm": [
        f"{name}_{element}"
        for name in ("power_iteration", "spectral_scale", "spectral_scale_grad")
        for element in ("float", "double")
    ],
}


class Kernels(Protocol):
    """The kernels of a source file, loaded on a device."""

    multiprocessors: int
    shared: int
    """Bytes of shared memory that a block may have."""

    def launch(self, name: str, grid: int, block: int, shared: int, cooperative: bool, argument: bytes) -> None:
        """Launch on the device's current stream. Raises RuntimeError.

        grid, block: numbers of blocks, and of threads of each. shared: bytes of dynamic shared memory of a block.
        cooperative: all blocks are resident at once, so that they can wait for each other. argument: the structure.
        """
        ...


class _Loaded:
    def __init__(self, index: int) -> None:
        properties = torch.cuda.get_device_properties(index)
        self.index = index
        self.multiprocessors = properties.multi_processor_count
        self.shared = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]


class _Built(_Loaded):
    """From fastgan._cuda."""

    def __init__(self, family: str, index: int) -> None:
        super().__init__(index)
        self._launch = native.cuda().launch
        for name in KERNELS[family]:
            native.cuda().prepare(name, index, self.shared)

    def launch(self, name: str, grid: int, block: int, shared: int, cooperative: bool, argument: bytes) -> None:
        stream = torch._C._cuda_getCurrentRawStream(self.index)
        self._launch(name, self.index, grid, block, shared, cooperative, stream, argument)


class _Compiled(_Loaded):
    """From NVRTC."""

    def __init__(self, family: str, index: int) -> None:
        super().__init__(index)
        arch = nvrtc.architecture(*torch.cuda.get_device_capability(index))
        self._module = cuda_driver.Module(nvrtc.cubin(family, arch), index)
        for name in KERNELS[family]:
            self._module.prepare(name, self.shared)

    def launch(self, name: str, grid: int, block: int, shared: int, cooperative: bool, argument: bytes) -> None:
        stream = torch._C._cuda_getCurrentRawStream(self.index)
        self._module.launch(name, grid, block, shared, cooperative, stream, argument)


@functools.cache
def _load(family: str, index: int) -> tuple[Kernels | None, str | None]:
    if torch.version.cuda is None:
        return None, "this torch is not built for NVIDIA GPUs"
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        return None, f"the CUDA C++ kernels need compute capability 8.0, not {capability[0]}.{capability[1]}"
    reasons = []
    for kind in (_Built, _Compiled):
        try:
            return kind(family, index), None
        except (RuntimeError, OSError) as error:
            reasons.append(str(error))
    return None, "; ".join(reasons)


def kernels(family: str, device: torch.device) -> Kernels:
    """The kernels of a file on a GPU. Raises RuntimeError with the reason if they are not available."""
    index = torch.cuda.current_device() if device.index is None else device.index
    found, reason = _load(family, index)
    if found is None:
        raise RuntimeError(reason)
    return found


def why_not(family: str, x: Tensor, dtypes: Iterable[torch.dtype]) -> str | None:
    """None if the kernels of a file can run on this tensor, else the reason. The first call may compile."""
    if not x.is_cuda:
        return f"the tensor is on {x.device.type}, not on a GPU"
    if x.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"the CUDA C++ kernels take {names}, not {x.dtype}"
    return _load(family, x.device.index)[1]


# --- counters of grid barriers ---------------------------------------------------------------------------------------

POOL = 1 << 14  # counters that are allocated at a time


class Counters:
    """The counter in device memory by which the blocks of a cooperative launch wait for each other (grid_barrier).

    A counter is zero before its first launch and serves one launch at a time, any number of times. Launches of one
    stream follow each other and share one. Graphs may be replayed on several streams at once, so each captured launch
    gets a counter of its own, which is never given again, since nothing reports when a graph is deleted.
    """

    def __init__(self) -> None:
        self._streams: dict[tuple[torch.device, int], int] = {}
        self._free: dict[torch.device, list[int]] = {}
        self._memory: list[Tensor] = []
        self._lock = threading.Lock()  # autograd runs backward passes in other threads

    def get(self, device: torch.device) -> int:
        """The address of a counter for the next launch on the device's current stream."""
        key = device, torch._C._cuda_getCurrentRawStream(device.index)
        with self._lock:
            if torch.cuda.is_current_stream_capturing():
                return self._for_graph(device)
            free = self._free.get(device, [])
            if len(free) < POOL // 2:
                free = self._allocate(device)
            if key not in self._streams:
                self._streams[key] = free.pop()
            return self._streams[key]

    def _allocate(self, device: torch.device) -> list[int]:
        pool = torch.zeros(POOL, dtype=torch.int32, device=device)
        torch.cuda.synchronize(device)  # other streams use it too
        self._memory.append(pool)
        free = self._free.setdefault(device, [])
        free += range(pool.data_ptr(), pool.data_ptr() + 4 * POOL, 4)
        return free

    def _for_graph(self, device: torch.device) -> int:
        free = self._free.get(device)
        if free:
            return free.pop()
        # Only if a capture comes before any other call, or has thousands of launches: the graph clears it each time.
        own = torch.zeros(1, dtype=torch.int32, device=device)
        self._memory.append(own)
        return own.data_ptr()


counters = Counters()
