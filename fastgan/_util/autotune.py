"""Autotuning: candidates that compute the same are timed once, and the fastest is remembered in a JSON file.

`Store` keeps any measurement, a dictionary for each key, in one file for each kind of hardware and set of library
versions. `select` times candidates and keeps the result in a store. Losing a file costs the measurements, nothing else.
Imports no torch: the runtime uses it too.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastgan._util import env
from fastgan._util.files import write_whole
from fastgan._util.locks import locked
from fastgan.errors import UsageError, first_line

#: Runs a candidate once.
Run = Callable[[], Any]
#: Takes the candidates that run, and returns the milliseconds of each, or the exception that it raised.
Measure = Callable[[Mapping[str, Run]], Mapping[str, float | Exception]]


# --- the store -------------------------------------------------------------------------------------------------------


class Store:
    """Measurements of one kind of hardware, by key, in a JSON file that several processes may write at once.

    path: the file; it and its folder need not exist. None: there is no place for one. hardware: what the measurements
    depend on besides their keys (device, library versions), written into the file. subject: what is measured, a plural
    for warnings ("kernels").

    A file that cannot be read or written costs one RuntimeWarning; the measurements then live in memory only.
    """

    def __init__(self, path: Path | None, hardware: Mapping[str, str], subject: str = "measurements") -> None:
        self.path = path
        self.hardware = dict(hardware)
        self.subject = subject
        self._warned = False
        self._values = self._read()

    def get(self, key: str) -> dict[str, Any] | None:
        """The measurement of that key: as this process put it, or as the file held it when it was last read."""
        return self._values.get(key)

    def all(self) -> list[dict[str, Any]]:
        """Every measurement, as this process put it or last read it."""
        return list(self._values.values())

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a measurement (of JSON's types) in memory and in the file. What other processes have put stays."""
        self._values = {**self._values, key: dict(value)}
        if self.path is None:
            self.warn(f"has no place, so {self.subject} are measured again in the next process: set FASTGAN_CACHE")
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_suffix(".lock")):
                self._values = {**self._values, **self._read(), key: dict(value)}
                self._write()
        except OSError as error:
            self.warn(f"cannot be written, so {self.subject} are measured again in the next process: {error}")

    def warn(self, problem: str) -> None:
        """A RuntimeWarning about the file, the first time only."""
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self.path or 'the cache'} {problem}", RuntimeWarning, stacklevel=3)

    def _read(self) -> dict[str, dict[str, Any]]:
        if self.path is None:
            return {}
        try:
            return read(self.path)[1]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.warn(f"cannot be read, so {self.subject} are measured again: {error}")
            return {}

    def _write(self) -> None:
        assert self.path is not None
        content = {"hardware": self.hardware, "measurements": dict(sorted(self._values.items()))}
        write_whole(self.path, json.dumps(content, indent=1).encode())


def open_store(subject: str, hardware: Mapping[str, str]) -> Store:
    """The store of a subject ("kernels") and hardware in fastgan's cache directory.

    hardware["device"] becomes part of the file's name, and everything in `hardware` of the hash in it.
    """
    try:
        return Store(store_path(directory(subject), hardware), hardware, subject)
    except UsageError:  # there is no home directory, and FASTGAN_CACHE is not set
        return Store(None, hardware, subject)


def directory(subject: str) -> Path:
    """The folder of a subject's files."""
    return env.cache_dir() / "autotune" / re.sub(r"\W+", "-", subject)


def device_name(hardware: Mapping[str, str]) -> str:
    """hardware["device"] as a part of a file's name."""
    return re.sub(r"\W+", "-", hardware["device"]).strip("-").lower()


def store_path(folder: Path, hardware: Mapping[str, str]) -> Path:
    """The file of that hardware in a folder."""
    digest = hashlib.sha256(json.dumps(dict(hardware), sort_keys=True).encode()).hexdigest()
    return folder / f"{device_name(hardware)}-{digest[:12]}.json"


def read(path: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """The hardware and the measurements of a file. Raises OSError, or ValueError if no Store wrote the content."""
    stored = json.loads(path.read_text())
    try:
        hardware, values = stored["hardware"], stored["measurements"]
        if not all(isinstance(value, dict) for value in values.values()):
            raise ValueError("a measurement is no object")
        return {str(name): str(value) for name, value in hardware.items()}, values
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a file of measurements: {error}") from error


# --- selection -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """The fastest of some candidates."""

    name: str
    milliseconds: dict[str, float]
    """Of every candidate that ran, by name."""
    unavailable: dict[str, str]
    """Why the others were not timed, by name."""

    @classmethod
    def parse(cls, stored: Any, reference: str | None = None) -> Selection:
        """From what a store holds. Raises ValueError if it is damaged, or if the reference has no time."""
        try:
            name, times, reasons = stored["name"], dict(stored["milliseconds"]), dict(stored["unavailable"])
            milliseconds = {str(k): float(v) for k, v in times.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a selection: {error}") from error
        if missing := {name, *([reference] if reference else [])} - set(milliseconds):
            raise ValueError(f"{', '.join(map(repr, sorted(map(str, missing))))} without a time")
        return cls(name, milliseconds, {str(k): str(v) for k, v in reasons.items()})


class NoCandidate(RuntimeError):
    """No candidate runs. reasons: why, by name."""

    def __init__(self, reasons: Mapping[str, str]):
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "no candidates")
        self.reasons = dict(reasons)


def select(
    key: str,
    candidates: Mapping[str, Run],
    measure: Measure,
    store: Store,
    *,
    reference: str | None = None,
    compare: Callable[[Any, Any], str | None] | None = None,
    unavailable: Mapping[str, str] | None = None,
    postpone: Callable[[Exception], bool] | None = None,
) -> Selection:
    """The fastest of some candidates: as stored under `key`, or measured now and stored.

    Each candidate first runs once. One that raises is left out, with the first line of its error as the reason.

    candidates: by name. reference: the one that always works; its errors are raised, and it has a time in each result.
    compare(result, expected): a reason why a candidate's result is wrong, given the reference's, or None; a candidate
    with a wrong result is left out. unavailable: why other candidates do not take part. postpone(error): whether an
    error may pass (running out of memory), so that the reference is selected and nothing is stored.

    Raises NoCandidate if none runs, ValueError for a comparison without a reference.
    """
    if reference is None and (compare or postpone):
        raise ValueError("reference: expected the name of a candidate with compare and postpone, got None")
    stored = stored_selection(key, store, reference)
    if stored is not None and stored.name in candidates:
        return stored
    reasons = dict(unavailable or {})
    working: dict[str, Run] = {}

    def leave_out(name: str, error: Exception) -> None:
        # The reference has run once: what may pass then is no fault of its own.
        if postpone and postpone(error) and (name != reference or name in working):
            raise _Postponed
        if name == reference:
            raise error
        reasons[name] = first_line(error)

    try:
        times: dict[str, float] = {}
        _try(candidates, reference, compare, leave_out, working)
        for name, time in measure(working).items():
            if isinstance(time, Exception):
                leave_out(name, time)
            else:
                times[name] = time
    except _Postponed:
        assert reference is not None
        return Selection(reference, {}, {})
    if not times:
        raise NoCandidate(reasons)
    selection = Selection(min(times, key=times.__getitem__), times, reasons)
    store.put(key, asdict(selection))
    return selection


def stored_selection(key: str, store: Store, reference: str | None = None) -> Selection | None:
    """What `select` stored under a key, or None. A damaged entry costs a warning."""
    value = store.get(key)
    if value is None:
        return None
    try:
        return Selection.parse(value, reference)
    except ValueError as error:
        store.warn(f"holds a damaged entry, so {store.subject} are measured again: {key}: {error}")
        return None


def one_by_one(milliseconds: Callable[[Run], float]) -> Measure:
    """A Measure that times one candidate after the other. `fastgan._util.timing.alternate` lets them take turns."""

    def measure(candidates: Mapping[str, Run]) -> dict[str, float | Exception]:
        times: dict[str, float | Exception] = {}
        for name, run in candidates.items():
            try:
                times[name] = milliseconds(run)
            except Exception as error:  # compilers and launchers raise many kinds
                times[name] = error
        return times

    return measure


class _Postponed(Exception):
    """Nothing can be measured now."""


class _Wrong(Exception):
    """A result that differs from the reference's."""


def _try(
    candidates: Mapping[str, Run],
    reference: str | None,
    compare: Callable[[Any, Any], str | None] | None,
    leave_out: Callable[[str, Exception], None],
    working: dict[str, Run],
) -> None:
    """Add to `working` the candidates that run and whose result passes the comparison, the reference first."""
    order = sorted(candidates, key=lambda name: name != reference)
    expected = None
    for name in order:
        try:
            result = candidates[name]()
            if name == reference:
                expected = result
            elif compare and (reason := compare(result, expected)):
                raise _Wrong(reason)
            working[name] = candidates[name]
        except Exception as error:  # compilers and launchers raise many kinds
            leave_out(name, error)
