"""Which back-end runs a model the fastest: measured once on the very model, and kept in a file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastgan._util import env
from fastgan._util.autotune import Choice, Table, table_path
from fastgan._util.timing import alternate, quantile, rounds_in, watch
from fastgan.errors import BackendError, FastganError, UsageError
from fastgan.runtime.backends.base import Backend, first_line
from fastgan.runtime.hardware import cpu_features, cpu_name, gpu_names, installed
from fastgan.runtime.spec import Inputs

#: Seconds that measuring may take, opening not counted. Where one call takes longer than ONE, one call decides.
ALL, ONE = 2.0, 1.0

#: The packages whose version a time depends on.
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch")


class Choosing:
    """The candidates for a model, opened at most once each.

    opens: by name. unavailable: why other back-ends do not take part.
    """

    def __init__(self, opens: dict[str, Callable[[], Backend]], unavailable: dict[str, str]):
        self._opens = opens
        self._ready: dict[str, Backend] = {}
        self._errors: dict[str, FastganError] = {}
        self.unavailable = dict(unavailable)

    def any(self) -> Backend:
        """One that opens the model. Raises what opening raised, or BackendError with the reasons of several."""
        for name in self._opens:
            if backend := self._open(name):
                return backend
        if len(self._errors) == 1:
            raise next(iter(self._errors.values()))
        if all(isinstance(error, UsageError) for error in self._errors.values()):
            raise UsageError("; ".join(map(str, self._errors.values())))
        raise _none(self.unavailable)

    def fastest(
        self, inputs: Callable[[Backend], list[Inputs]], table: Callable[[], tuple[Table, str]]
    ) -> tuple[Backend, Choice | None]:
        """The fastest and, if there was a choice, the times.

        inputs: from small to realistic, for a model that is open; the last whose time is bearable is measured. table:
        where the answer is kept, and the question; asked only if there is a choice.
        """
        if len(self._opens) == 1:
            return self.any(), None
        known, question = table()
        stored = known.get(question)
        if stored is not None and stored.name in self._opens and (backend := self._open(stored.name)):
            return backend, stored
        choice = self._measure(inputs(self.any()))
        known.put(question, choice)
        return self._ready[choice.name], choice

    def _measure(self, inputs: list[Inputs]) -> Choice:
        contestants = {name: backend for name in self._opens if (backend := self._open(name))}
        took: dict[str, float] = {}
        last = inputs[0]
        for given in inputs:
            if took and max(took.values()) * given[0].size / last[0].size > ONE * 1e3:
                break
            last, took = given, self._once(contestants, given)
        if len(took) > 1 and max(took.values()) < ONE * 1e3:
            runs = {name: functools.partial(contestants[name].run, *last) for name in took}
            pending = alternate(runs, watch, rounds_in(ALL, sum(took.values()) / 1e3, (3, 50)))
            took = {name: quantile([read() for read in reads], 0.5) for name, reads in pending.items()}
        return Choice(min(took, key=took.__getitem__), took, self.unavailable)

    def _once(self, contestants: dict[str, Backend], given: Inputs) -> dict[str, float]:
        """Milliseconds of one run of each; those that fail drop out."""
        took = {}
        for name, backend in list(contestants.items()):
            try:
                for _ in range(backend.warm_ups):
                    backend.run(*given)
                took[name] = watch(functools.partial(backend.run, *given))()
            except Exception as error:  # every library has exceptions of its own
                self.unavailable[name] = f"it fails on an input {list(given[0].shape)}: {first_line(error)}"
                del contestants[name]
        if not took:
            raise _none(self.unavailable)
        return took

    def _open(self, name: str) -> Backend | None:
        if name not in self._ready and name not in self.unavailable:
            try:
                self._ready[name] = self._opens[name]()
            except FastganError as error:
                self._errors[name], self.unavailable[name] = error, str(error)
        return self._ready.get(name)


def table(model: str, device: str, threads: int) -> tuple[Table, str]:
    """The table of this machine and these libraries, and the question after a model, by its digest."""
    machine = {
        "device": " ".join((cpu_name(), *gpu_names())),
        "features": " ".join(cpu_features()),
        **{name: version for name in _PACKAGES if (version := installed(name))},
    }
    path = table_path(env.cache_dir() / "sessions", machine)
    return Table(path, machine, "back-ends"), f"{model} {device} {threads} threads"


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_module(module: Any) -> str:
    """SHA-256 of what a torch module's time depends on: its layers, and the shapes and dtypes of its tensors."""
    tensors = [(name, tuple(t.shape), str(t.dtype)) for name, t in module.state_dict().items()]
    return hashlib.sha256(f"{module!r} {tensors}".encode()).hexdigest()


def _none(reasons: dict[str, str]) -> BackendError:
    return BackendError("model: no back-end runs it: " + "; ".join(f"{n}: {reason}" for n, reason in reasons.items()))
