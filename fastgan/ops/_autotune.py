"""Which of several ways to compute the same is the fastest: measured once on the user's GPU, and kept in a file.

There is one JSON file for each GPU, library version and state of our kernels, so that nothing stale is read.
Losing a file costs the measurements, nothing else: every way gives the same result up to rounding.
"""

from __future__ import annotations

import functools
import hashlib
import statistics
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan._util import autotune, env
from fastgan._util.autotune import Choice, Table, table_path

Runs = Mapping[str, Callable[[], Any]]
Question = tuple[Any, ...]

#: The way that always works. It runs where nothing can be measured.
LIBRARY = "library"


def question(op: str, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...]) -> Question:
    """What a choice depends on, cheap to make: it is asked at every call of an op."""
    kinds = [None if t is None else (tuple(t.shape), t.dtype) for t in tensors]
    return op, *kinds, *(tuple(o) if isinstance(o, list) else o for o in options)


def _text(asked: Question) -> str:
    """A question as a key of the file and a line for a person: op, shapes with dtypes, options."""

    def part(value: Any) -> str:
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], torch.dtype):
            return f"{part(value[0])}:{str(value[1]).removeprefix('torch.')}"
        return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return " ".join(map(part, asked))


# --- the file --------------------------------------------------------------------------------------------------------


def directory() -> Path:
    """Where the files are."""
    return env.cache_dir() / "kernels"


def read(path: Path) -> tuple[dict[str, str], dict[str, Choice]]:
    """The machine and its choices, by question. OSError, or ValueError if the content is not ours."""
    return autotune.read(path, {LIBRARY})


def table(path: Path, machine: Mapping[str, str]) -> Table:
    """The choices of one GPU."""
    return Table(path, machine, "kernels", {LIBRARY})


# --- choosing --------------------------------------------------------------------------------------------------------


class Chooser:
    """Answers questions from a table, and from a timer where the table has no answer."""

    def __init__(
        self, table: Table, milliseconds: Callable[[Callable[[], Any]], float], capturing: Callable[[], bool]
    ) -> None:
        self.table = table
        self._milliseconds = milliseconds
        self._capturing = capturing
        self._known: dict[Question, str] = {}
        self._lock = threading.Lock()  # autograd runs backward passes in threads of its own

    def fastest(self, asked: Question, runs: Runs) -> Any:
        """The result of the fastest of `runs`. All must compute the same, and LIBRARY must be one of them."""
        name = self._known.get(asked)
        if name is None:
            stored = self.table.get(_text(asked))
            if stored is None and self._capturing():
                return runs[LIBRARY]()  # measuring would be captured; the next call outside of a graph does it
            with self._lock:
                name = self._known.setdefault(asked, stored.name if stored else self._measure(asked, runs))
        return runs[name]()

    def _measure(self, asked: Question, runs: Runs) -> str:
        took: dict[str, float] = {LIBRARY: self._milliseconds(runs[LIBRARY])}
        unavailable: dict[str, str] = {}
        for name, run in runs.items():
            if name == LIBRARY:
                continue
            try:
                took[name] = self._milliseconds(run)
            except torch.OutOfMemoryError:
                return LIBRARY  # for this process; the next one may have more memory
            except Exception as error:  # Triton's compiler and launcher raise many kinds
                unavailable[name] = next(iter(str(error).strip().splitlines()), type(error).__name__)
        choice = Choice(min(took, key=took.__getitem__), took, unavailable)
        self.table.put(_text(asked), choice)
        return choice.name


def fastest(device: torch.device, asked: Question, runs: Runs) -> Any:
    """The result of the fastest of `runs` on that GPU."""
    index = torch.cuda.current_device() if device.index is None else device.index
    with torch.cuda.device(index):
        return _chooser(index, directory()).fastest(asked, runs)


@functools.cache
def _chooser(index: int, where: Path) -> Chooser:
    found = machine(index)
    return Chooser(table(table_path(where, found), found), _milliseconds, torch.cuda.is_current_stream_capturing)


def machine(index: int) -> dict[str, str]:
    """What the times depend on beside the question."""
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
        run()  # compiles
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
