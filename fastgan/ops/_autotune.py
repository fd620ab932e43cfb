"""Selects the fastest of several GPU kernels that compute the same: measured once on the user's GPU, kept in a file.

There is one file for each GPU, set of library versions and source of our kernels, so that nothing stale is read.
"""

from __future__ import annotations

import functools
import hashlib
import math
import statistics
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastgan._util import autotune
from fastgan._util.autotune import Selection, Store, one_by_one, select, stored_selection

Runs = Mapping[str, Callable[[], Any]]
Key = tuple[Any, ...]

#: The library's implementation, which always works. It runs where nothing can be measured.
LIBRARY = "library"

SUBJECT = "kernels"

#: How far a kernel's result may be from the library's, as relative L2 error. Products of float32 may be in TF32.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def selection_key(op: str, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...]) -> Key:
    """What a selection depends on: op, shapes, dtypes, options. Cheap, since every call of an op makes one."""
    kinds = [None if t is None else (tuple(t.shape), t.dtype) for t in tensors]
    return op, *kinds, *(tuple(o) if isinstance(o, list) else o for o in options)


def _text(key: Key) -> str:
    """The key in the file: op, shapes with dtypes, options, separated by spaces."""

    def part(value: Any) -> str:
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], torch.dtype):
            return f"{part(value[0])}:{str(value[1]).removeprefix('torch.')}"
        return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return " ".join(map(part, key))


def directory() -> Path:
    """Where the files are."""
    return autotune.directory(SUBJECT)


def read(path: Path) -> tuple[dict[str, str], dict[str, Selection]]:
    """The hardware of a file and its selections by key. Raises OSError, or ValueError if the content is damaged."""
    hardware, values = autotune.read(path)
    return hardware, {key: Selection.parse(value, LIBRARY) for key, value in values.items()}


class KernelSelector:
    """Runs the fastest kernel: as stored, or as measured at the first call with a key.

    milliseconds: the time of one run. capturing: whether a CUDA graph is being captured.
    """

    def __init__(
        self, store: Store, milliseconds: Callable[[Callable[[], Any]], float], capturing: Callable[[], bool]
    ) -> None:
        self.store = store
        self._milliseconds = milliseconds
        self._capturing = capturing
        self._names: dict[Key, str] = {}
        self._lock = threading.Lock()  # autograd runs backward passes in threads of its own

    def fastest(self, key: Key, runs: Runs) -> Any:
        """The result of the fastest of `runs`. All must compute the same, and LIBRARY must be one of them."""
        name = self._names.get(key)
        if name is None:
            if self._capturing():
                # Measuring would be captured too: the next call outside of a graph does it.
                stored = stored_selection(_text(key), self.store, LIBRARY)
                if stored is None or stored.name not in runs:
                    return runs[LIBRARY]()
            with self._lock:
                name = self._names.setdefault(key, self._select(key, runs))
        return runs[name]()

    def _select(self, key: Key, runs: Runs) -> str:
        return select(
            _text(key),
            runs,
            one_by_one(self._milliseconds),
            self.store,
            reference=LIBRARY,
            compare=wrong_result,
            postpone=(torch.OutOfMemoryError,),  # another process may have more memory
        ).name


def wrong_result(result: Any, expected: Any) -> str | None:
    """Why a result of tensors differs from the expected one by more than rounding, or None.

    The scale is the largest L2 norm among the expected tensors: the sums of a bias gradient may cancel.
    """
    got, want = tree_leaves(result), tree_leaves(expected)
    if [(t.shape, t.dtype) for t in got] != [(t.shape, t.dtype) for t in want]:
        return "its result differs from the library's in shape or dtype"
    # Overflows count as the largest number: a scaled loss has them in its first steps.
    finite = [(torch.nan_to_num(g).double(), torch.nan_to_num(w).double()) for g, w in zip(got, want, strict=True)]
    scale = max((float(w.norm()) for _, w in finite), default=0.0)
    error = max((float((g - w).norm()) for g, w in finite), default=0.0)
    tolerance = max((TOLERANCE[t.dtype] for t in want), default=0.0)
    if error <= tolerance * scale:
        return None
    return f"its result differs from the library's: relative error {error / scale if scale else math.inf:.1e}"


def fastest(device: torch.device, key: Key, runs: Runs) -> Any:
    """The result of the fastest of `runs` on that GPU."""
    index = torch.cuda.current_device() if device.index is None else device.index
    with torch.cuda.device(index):
        return _selector(index, directory()).fastest(key, runs)


@functools.cache
def _selector(index: int, folder: Path) -> KernelSelector:
    found = hardware(index)
    store = Store(autotune.store_path(folder, found), found, SUBJECT)
    return KernelSelector(store, _milliseconds, torch.cuda.is_current_stream_capturing)


def hardware(index: int) -> dict[str, str]:
    """What the times depend on besides the key."""
    return {
        "device": torch.cuda.get_device_name(index),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "triton": version("triton"),
        "kernels": _source_hash(),
    }


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*/triton*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_RUNS, _ROUNDS = 10, 5


def _milliseconds(run: Callable[[], Any]) -> float:
    """Time of one run on the current GPU, launches not counted: the median of some rounds of runs back to back."""
    for _ in range(3):
        run()
    times = []
    for _ in range(_ROUNDS):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # The GPU is kept busy for a millisecond or two, while the launches of a round queue up.
        torch.cuda._sleep(3_000_000)
        before.record()
        for _ in range(_RUNS):
            run()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / _RUNS)
    return statistics.median(times)
