"""Selects the back-end that runs a model fastest: timed once on this model, the result stored in a file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

from fastgan._util import env
from fastgan._util.autotune import Choice, Table, table_path
from fastgan._util.timing import alternate, quantile, rounds_in, watch
from fastgan.errors import BackendError, FastganError, UsageError
from fastgan.runtime import backends
from fastgan.runtime.backends.base import Backend, first_line
from fastgan.runtime.hardware import cpu_features, cpu_name, gpu_names
from fastgan.runtime.spec import Inputs

#: Seconds for all timed rounds. A call that takes longer than SINGLE_CALL seconds is timed once.
TOTAL, SINGLE_CALL = 2.0, 1.0


class Selector:
    """The candidate back-ends for a model; each is opened at most once.

    opens: functions that open the model, by name. unavailable: the reasons why other back-ends are left out.
    """

    def __init__(self, opens: dict[str, Callable[[], Backend]], unavailable: dict[str, str]):
        self._opens = opens
        self._ready: dict[str, Backend] = {}
        self._errors: dict[str, FastganError] = {}
        self.unavailable = dict(unavailable)

    def first_that_opens(self) -> Backend:
        """The first back-end that opens the model. Raises its error, or BackendError with the reasons of several."""
        for name in self._opens:
            if backend := self._open(name):
                return backend
        if len(self._errors) == 1:
            raise next(iter(self._errors.values()))
        if all(isinstance(error, UsageError) for error in self._errors.values()):
            raise UsageError("; ".join(map(str, self._errors.values())))
        raise _no_backend(self.unavailable)

    def fastest(
        self, inputs: Callable[[Backend], list[Inputs]], table: Callable[[], tuple[Table, str]]
    ) -> tuple[Backend, Choice | None]:
        """The fastest back-end, and the times where there were several candidates.

        inputs: from an open back-end, inputs from small to realistic; the last that is expected to take less than
        SINGLE_CALL seconds is timed. table: the store of results and the key; called only where there are several
        candidates.
        """
        if len(self._opens) == 1:
            return self.first_that_opens(), None
        store, key = table()
        stored = store.get(key)
        if stored is not None and stored.name in self._opens and (backend := self._open(stored.name)):
            return backend, stored
        choice = self._measure(inputs(self.first_that_opens()))
        store.put(key, choice)
        return self._ready[choice.name], choice

    def _measure(self, inputs: list[Inputs]) -> Choice:
        open_backends = {name: backend for name in self._opens if (backend := self._open(name))}
        took: dict[str, float] = {}
        last = inputs[0]
        for given in inputs:
            if took and max(took.values()) * given[0].size / last[0].size > SINGLE_CALL * 1e3:
                break
            last, took = given, self._once(open_backends, given)
        if len(took) > 1 and max(took.values()) < SINGLE_CALL * 1e3:
            runs = {name: functools.partial(open_backends[name].run, *last) for name in took}
            pending = alternate(runs, watch, rounds_in(TOTAL, sum(took.values()) / 1e3, (3, 50)))
            took = {name: quantile([read() for read in reads], 0.5) for name, reads in pending.items()}
        return Choice(min(took, key=took.__getitem__), took, self.unavailable)

    def _once(self, open_backends: dict[str, Backend], given: Inputs) -> dict[str, float]:
        """Milliseconds of one run of each; those that fail are removed from open_backends."""
        took = {}
        for name, backend in list(open_backends.items()):
            try:
                for _ in range(backend.warm_ups):
                    backend.run(*given)
                took[name] = watch(functools.partial(backend.run, *given))()
            except Exception as error:  # every library has exceptions of its own
                self.unavailable[name] = f"it fails on an input {list(given[0].shape)}: {first_line(error)}"
                del open_backends[name]
        if not took:
            raise _no_backend(self.unavailable)
        return took

    def _open(self, name: str) -> Backend | None:
        if name not in self._ready and name not in self.unavailable:
            try:
                self._ready[name] = self._opens[name]()
            except FastganError as error:
                self._errors[name], self.unavailable[name] = error, str(error)
        return self._ready.get(name)


def table(model: str, device: str, threads: int) -> tuple[Table, str]:
    """The store for this hardware and these library versions, and the key of a model, by its digest."""
    hardware = {
        "device": " ".join((cpu_name(), *gpu_names())),
        "features": " ".join(cpu_features()),
        **backends.versions(),
    }
    path = table_path(env.cache_dir() / "sessions", hardware)
    return Table(path, hardware, "back-ends"), f"{model} {device} {threads} threads"


def module_digest(module: Any) -> str:
    """SHA-256 of the layers of a torch module and the shapes and dtypes of its tensors, not of their values."""
    tensors = [(name, tuple(t.shape), str(t.dtype)) for name, t in module.state_dict().items()]
    return hashlib.sha256(f"{module!r} {tensors}".encode()).hexdigest()


def _no_backend(reasons: dict[str, str]) -> BackendError:
    return BackendError("model: no back-end runs it: " + "; ".join(f"{n}: {reason}" for n, reason in reasons.items()))
