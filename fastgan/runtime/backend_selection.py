"""Selects the back-end that runs a model fastest: timed once on this model, the result stored in a file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

from fastgan._util.autotune import NoCandidate, Selection, Store, open_store, select, stored_selection
from fastgan._util.timing import alternate, quantile, rounds_in, watch
from fastgan.errors import BackendError, FastganError, UsageError, first_line
from fastgan.runtime import backends
from fastgan.runtime.backends.base import Backend
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
        self, inputs: Callable[[Backend], list[Inputs]], store: Callable[[], tuple[Store, str]]
    ) -> tuple[Backend, Selection | None]:
        """The fastest back-end, and the times where there were several candidates.

        inputs: from an open back-end, inputs from small to realistic; the last that is expected to take less than
        SINGLE_CALL seconds is timed. store: the store of results and the key; called only where there are several
        candidates.
        """
        if len(self._opens) == 1:
            return self.first_that_opens(), None
        opened_store, key = store()
        stored = stored_selection(key, opened_store)
        if stored and stored.name in self._opens and (backend := self._open(stored.name)):
            return backend, stored
        trials = inputs(self.first_that_opens())
        # A stored back-end that no longer opens is no candidate, so that `select` measures again.
        names = [name for name in self._opens if name not in self.unavailable]
        once: dict[str, float] = {}

        def run_once(name: str) -> None:
            if backend := self._open(name):
                once[name] = self._once(backend, trials[0])
            else:
                raise self._errors[name]

        runs = {name: functools.partial(run_once, name) for name in names}
        try:
            selection = select(
                key, runs, lambda working: self._measure(list(working), trials, once), opened_store,
                unavailable=self.unavailable,
            )  # fmt: skip
        except NoCandidate as error:
            self.unavailable.update(error.reasons)
            raise _no_backend(self.unavailable) from error
        self.unavailable.update(selection.unavailable)
        return self._ready[selection.name], selection

    def _measure(self, names: list[str], trials: list[Inputs], once: dict[str, float]) -> dict[str, float | Exception]:
        """Milliseconds of each, or its exception. once: milliseconds of one run of each on trials[0]."""
        took = {name: once[name] for name in names}
        failed: dict[str, float | Exception] = {}
        last = trials[0]
        for given in trials[1:]:
            if not took or max(took.values()) * given[0].size / last[0].size > SINGLE_CALL * 1e3:
                break
            last = given
            for name in list(took):
                try:
                    took[name] = self._once(self._ready[name], given)
                except BackendError as error:
                    failed[name] = error
                    del took[name]
        if len(took) > 1 and max(took.values()) < SINGLE_CALL * 1e3:
            runs = {name: functools.partial(self._ready[name].run, *last) for name in took}
            pending = alternate(runs, watch, rounds_in(TOTAL, sum(took.values()) / 1e3, (3, 50)))
            took = {name: quantile([read() for read in reads], 0.5) for name, reads in pending.items()}
        return took | failed

    @staticmethod
    def _once(backend: Backend, given: Inputs) -> float:
        """Milliseconds of one run after the warm-up. Raises BackendError where it fails."""
        try:
            for _ in range(backend.warm_ups):
                backend.run(*given)
            return watch(functools.partial(backend.run, *given))()
        except Exception as error:  # every library has exceptions of its own
            raise BackendError(f"it fails on an input {list(given[0].shape)}: {first_line(error)}") from error

    def _open(self, name: str) -> Backend | None:
        if name not in self._ready and name not in self.unavailable:
            try:
                self._ready[name] = self._opens[name]()
            except FastganError as error:
                self._errors[name], self.unavailable[name] = error, str(error)
        return self._ready.get(name)


def store(model: str, device: str, threads: int) -> tuple[Store, str]:
    """The store for this hardware and these library versions, and the key of a model, by its digest."""
    hardware = {
        "device": " ".join((cpu_name(), *gpu_names())),
        "features": " ".join(cpu_features()),
        **backends.versions(),
    }
    return open_store("back-ends", hardware), f"{model} {device} {threads} threads"


def module_digest(module: Any) -> str:
    """SHA-256 of the layers of a torch module and the shapes and dtypes of its tensors, not of their values."""
    tensors = [(name, tuple(t.shape), str(t.dtype)) for name, t in module.state_dict().items()]
    return hashlib.sha256(f"{module!r} {tensors}".encode()).hexdigest()


def _no_backend(reasons: dict[str, str]) -> BackendError:
    return BackendError("model: no back-end runs it: " + "; ".join(f"{n}: {reason}" for n, reason in reasons.items()))
