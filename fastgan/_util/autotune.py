"""Choices that were made by measurement, kept in a JSON file for each machine: what was the fastest, and how fast.

Losing a file costs the measurements, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Choice:
    """The answer to a question."""

    name: str
    milliseconds: dict[str, float]
    """Of every way that ran."""
    unavailable: dict[str, str]
    """Why the others did not."""

    @classmethod
    def parse(cls, stored: Any, always: Collection[str] = ()) -> Choice:
        """What `asdict` made. ValueError or TypeError if it did not, or if one of `always` has no time."""
        choice = cls(**stored)
        if missing := {choice.name, *always} - set(choice.milliseconds):
            raise ValueError(f"{', '.join(map(repr, sorted(missing)))} without a time")
        return cls(
            choice.name,
            {str(name): float(ms) for name, ms in choice.milliseconds.items()},
            {str(name): str(reason) for name, reason in choice.unavailable.items()},
        )


def read(path: Path, always: Collection[str] = ()) -> tuple[dict[str, str], dict[str, Choice]]:
    """The machine and its choices, by question. OSError, or ValueError if the content is not ours."""
    try:
        stored = json.loads(path.read_text())
        choices = {str(text): Choice.parse(choice, always) for text, choice in stored["choices"].items()}
        return {str(k): str(v) for k, v in stored["machine"].items()}, choices
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a file of choices: {error}") from error


def table_path(where: Path, machine: Mapping[str, str]) -> Path:
    """The file of that machine, whose "device" is part of its name."""
    name = re.sub(r"\W+", "-", machine["device"]).strip("-").lower()
    return where / f"{name}-{hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:12]}.json"


class Table:
    """The choices of one machine. A file that cannot be read or written costs a warning and is then done without.

    what: what is measured again then, in the warning. always: ways that every choice has a time of.
    """

    def __init__(self, path: Path, machine: Mapping[str, str], what: str, always: Collection[str] = ()) -> None:
        self.path = path
        self.machine = dict(machine)
        self._what = what
        self._always = always
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
            self._warn(
                f"{self.path} cannot be written, so {self._what} are measured again in the next process: {error}"
            )

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
            return read(self.path, self._always)[1]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._warn(f"{self.path} cannot be read, so {self._what} are measured again: {error}")
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
