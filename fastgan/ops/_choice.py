"""Which of several ways to compute the same is the fastest: measured once on the user's GPU, and kept in a file.

There is one JSON file for each GPU, driver, library version and state of our kernels, so that nothing stale is read.
Losing a file costs the measurements, nothing else: every way gives the same result up to rounding.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import statistics
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan import _env

Runs = Mapping[str, Callable[[], Any]]
Question = tuple[Any, ...]

#: The way that always works. It runs where nothing can be measured.
LIBRARY = "library"


@dataclass(frozen=True)
class Choice:
    """The answer to a question."""

    name: str
    milliseconds: dict[str, float]
    """Of every way that ran."""
    unavailable: dict[str, str]
    """Why the others did not."""

    @classmethod
    def parse(cls, stored: Any) -> Choice:
        """What `asdict` made. ValueError or TypeError if it did not."""
        choice = cls(**stored)
        if not {choice.name, LIBRARY} <= set(choice.milliseconds):
            raise ValueError(f"{choice.name!r} or {LIBRARY!r} has no time")
        return cls(
            choice.name,
            {str(name): float(ms) for name, ms in choice.milliseconds.items()},
            {str(name): str(reason) for name, reason in choice.unavailable.items()},
        )


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
    return _env.cache_dir() / "kernels"


def read(path: Path) -> tuple[dict[str, str], dict[str, Choice]]:
    """The machine and its choices, by question. OSError, or ValueError if the content is not ours."""
    try:
        stored = json.loads(path.read_text())
        choices = {str(text): Choice.parse(choice) for text, choice in stored["choices"].items()}
        return {str(k): str(v) for k, v in stored["machine"].items()}, choices
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a file of choices: {error}") from error


class Table:
    """The choices of one machine. A file that cannot be read or written costs a warning and is then done without."""

    def __init__(self, path: Path, machine: Mapping[str, str]) -> None:
        self.path = path
        self.machine = dict(machine)
        self._warned = False
        self._choices = self._stored()

    def get(self, text: str) -> Choice | None:
        return self._choices.get(text)

    def put(self, text: str, choice: Choice) -> None:
        """Keep a choice here and in the file, beside what other processes have added in the meantime."""
        self._choices[text] = choice
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(self.path.with_suffix(".lock")):
                self._choices = {**self._stored(), **self._choices}
                self._write()
        except OSError as error:
            self._warn(f"{self.path} cannot be written, so kernels are measured again in the next process: {error}")

    def _write(self) -> None:
        content = {"machine": self.machine, "choices": {t: asdict(c) for t, c in sorted(self._choices.items())}}
        number, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.stem, suffix=".tmp")
        try:
            with os.fdopen(number, "w") as file:
                json.dump(content, file, indent=1)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise

    def _stored(self) -> dict[str, Choice]:
        try:
            return read(self.path)[1]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._warn(f"{self.path} cannot be read, so kernels are measured again: {error}")
            return {}

    def _warn(self, sentence: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Other processes wait here meanwhile, where the system has locks. Without, one may lose what the other wrote."""
    with path.open("a") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
    return Chooser(Table(table_path(where, found), found), _milliseconds, torch.cuda.is_current_stream_capturing)


def machine(index: int) -> dict[str, str]:
    """What the times depend on beside the question."""
    return {
        "device": torch.cuda.get_device_name(index),
        "driver": str(torch._C._cuda_getDriverVersion()),  # type: ignore[attr-defined]
        "torch": torch.__version__,
        "cudnn": str(torch.backends.cudnn.version()),
        "triton": version("triton"),
        "kernels": _source_hash(),
    }


def table_path(where: Path, found: Mapping[str, str]) -> Path:
    """The file of that machine."""
    name = re.sub(r"\W+", "-", found["device"]).strip("-").lower()
    return where / f"{name}-{hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]}.json"


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
