"""Selects the fastest of several GPU kernels that compute the same: measured once on the user's GPU, kept in a file.

There is one file for each GPU, set of library versions and source of our kernels, so that nothing stale is read. Where
it has no answer, a table that ships with the package for that GPU may have one (`fastgan/ops/tables/README.md`).
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastgan._util import autotune
from fastgan._util.autotune import Selection, Store, select, stored_selection
from fastgan.errors import UsageError
from fastgan.ops._replay import Uncapturable, milliseconds

Tensors = tuple[Tensor | None, ...]
#: An implementation. It takes the tensors, and may hold anything but tensors, since it is kept for the next call.
Run = Callable[..., Any]
Runs = Mapping[str, Run]
Key = tuple[Any, ...]

#: The library's implementation, which always works. It runs where nothing can be measured.
LIBRARY = "library"

#: The library's implementation as it measures itself at its first call with a shape, which no graph may capture.
WARMED = "library/benchmark"

SUBJECT = "kernels"

#: The tables that ship with the package.
TABLES = Path(__file__).parent / "tables"

#: How far a kernel's result may be from the library's, as relative L2 error. Products of float32 may be in TF32.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def selection_key(op: str, tensors: Tensors, options: tuple[Any, ...]) -> Key:
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


def shipped_table(device: str, folder: Path = TABLES) -> dict[str, Selection]:
    """The selections that ship with the package for a GPU of that name; empty if none do."""
    try:
        return read(folder / f"{autotune.device_name({'device': device})}.json")[1]
    except FileNotFoundError:
        return {}


def write_table(store: Path, folder: Path = TABLES) -> Path:
    """Write a file of measurements as the table of its GPU into a folder. Returns the table's path.

    Raises OSError, ValueError if the content is damaged, UsageError if another file has the table's name.
    """
    hardware, values = autotune.read(store)
    read(store)  # every entry must be a selection
    path = folder / f"{autotune.device_name(hardware)}.json"
    if path.exists():
        try:
            read(path)
        except ValueError as error:
            raise UsageError(f"write_table: {path} is no table of fastgan ({error}); move it away") from error
    table = Store(path, hardware, SUBJECT)
    for key, value in values.items():
        table.put(key, value)
    path.with_suffix(".lock").unlink(missing_ok=True)
    return path


class KernelSelector:
    """Runs the fastest kernel: as stored, else as in the table that ships, else as measured at the first call.

    measure(run, tensors): the milliseconds of one run. capturing: whether a CUDA graph is being captured. table: what
    ships for this GPU.
    """

    def __init__(
        self,
        store: Store,
        measure: Callable[[Run, Tensors], float],
        capturing: Callable[[], bool],
        table: Mapping[str, Selection] | None = None,
    ) -> None:
        self.store = store
        self._measure = measure
        self._capturing = capturing
        self._table = table or {}
        self._fastest: dict[Key, Run] = {}
        self._lock = threading.Lock()  # autograd runs backward passes in threads of its own

    def fastest(self, key: Key, runs: Callable[[], Runs], tensors: Tensors) -> Any:
        """The result of the fastest of `runs()` on these tensors. All compute the same; LIBRARY is one of them."""
        run = self._fastest.get(key)
        if run is None:
            if self._capturing():
                # Measuring would be captured too: the next call outside of a graph does it.
                return self._without_measuring(_text(key), runs())(*tensors)
            with self._lock:
                run = self._fastest.get(key)
                if run is None:
                    candidates = runs()
                    run = self._fastest[key] = candidates[self._select(_text(key), candidates, tensors)]
        return run(*tensors)

    def _known(self, key: str, runs: Runs) -> str | None:
        """The name of the fastest as stored or as shipped, if it is one of `runs`."""
        for selection in (stored_selection(key, self.store, LIBRARY), self._table.get(key)):
            if selection is not None and selection.name in runs:
                return selection.name
        return None

    def _without_measuring(self, key: str, runs: Runs) -> Run:
        name = self._known(key, runs)
        return runs[LIBRARY if name in (None, WARMED) else name]

    def _select(self, key: str, runs: Runs, tensors: Tensors) -> str:
        if (known := self._known(key, runs)) is not None:
            return known

        def measured(working: Mapping[str, Any]) -> dict[str, float | Exception]:
            times: dict[str, float | Exception] = {}
            for name in working:
                try:
                    times[name] = self._measure(runs[name], tensors)
                except Exception as error:  # compilers and launchers raise many kinds
                    if name == LIBRARY and isinstance(error, Uncapturable):
                        error = RuntimeError(f"no graph can be captured now: {error}")
                    times[name] = error
            return times

        return select(
            key,
            {name: functools.partial(run, *tensors) for name, run in runs.items()},
            measured,
            self.store,
            reference=LIBRARY,
            compare=wrong_result,
            postpone=may_pass,
        ).name


#: Errors of the CUDA driver and its libraries: memory that another process holds, a stream that another thread
#: captures, a device that was busy. Our kernels' own are about resources that no GPU of this kind has.
_PASSING = re.compile(
    r"out of memory|captur|CUDA error|Triton Error \[CUDA\]|CUDNN_STATUS|CUBLAS_STATUS", re.IGNORECASE
)


def may_pass(error: Exception) -> bool:
    """Whether an error need not come again in the next process, so that nothing is concluded from it."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _PASSING.search(str(error)) is not None
    )


def wrong_result(result: Any, expected: Any, source: str = "the library") -> str | None:
    """Why a result of tensors differs from the expected one by more than rounding, or None. source: of the latter.

    The scale is the largest L2 norm among the expected tensors: the sums of a bias gradient may cancel.
    """
    got, want = tree_leaves(result), tree_leaves(expected)
    if [(t.shape, t.dtype) for t in got] != [(t.shape, t.dtype) for t in want]:
        return f"its result differs from {source}'s in shape or dtype"
    # Overflows count as the largest number: a scaled loss has them in its first steps.
    finite = [(torch.nan_to_num(g).double(), torch.nan_to_num(w).double()) for g, w in zip(got, want, strict=True)]
    scale = max((float(w.norm()) for _, w in finite), default=0.0)
    error = max((float((g - w).norm()) for g, w in finite), default=0.0)
    tolerance = max((TOLERANCE[t.dtype] for t in want), default=0.0)
    if error <= tolerance * scale:
        return None
    return f"its result differs from {source}'s: relative error {error / scale if scale else math.inf:.1e}"


def fastest(device: torch.device, key: Key, runs: Callable[[], Runs], tensors: Tensors) -> Any:
    """The result of the fastest of `runs()` on these tensors on that GPU. `runs` is called once for each key."""
    index = torch.cuda.current_device() if device.index is None else device.index
    with torch.cuda.device(index):
        return _selector(index).fastest(key, runs, tensors)


@functools.cache
def _selector(index: int) -> KernelSelector:
    # The folder is read from the environment once, not in each call of an op.
    found = hardware(index)
    store = Store(autotune.store_path(directory(), found), found, SUBJECT)
    return KernelSelector(store, milliseconds, torch.cuda.is_current_stream_capturing, shipped_table(found["device"]))


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
