"""Words of the command line into options, with tyro; whatever is wrong becomes one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fastgan.errors import UsageError

#: The type of an option `class_`, which is --class to a user.
Class = Annotated[int | None, tyro.conf.arg(name="class")]


@dataclass
class Nothing:
    """No options."""


def parse(kind: type, argv: list[str], command: str, default: Any = None) -> Any:
    """Parse flags into a dataclass with tyro. Raises UsageError; prints and exits for --help."""
    known = [f.name.rstrip("_") for f in dataclasses.fields(kind)]
    if default is not None and "config" in known:
        known += [f.name for f in dataclasses.fields(default.config)]
    for word in argv:
        name = word[2:].split("=")[0].replace("-", "_")
        if word.startswith("--") and name not in (*known, "help") and name.removeprefix("no_") not in known:
            from fastgan.train.config import unknown

            flags = [f"--{n.replace('_', '-')}" for n in known]
            raise UsageError(unknown("option", word.split("=")[0], flags))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=argv, prog=f"fastgan {command}", default=default)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UsageError(f"{_sentence_in(complaint.getvalue())}; see fastgan {command} --help") from None


def positional(argv: list[str], command: str, what: str, kind: type) -> tuple[str, list[str]]:
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: fastgan {command} {what} [options]")
        parse(kind, argv, f"{command} {what}")
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"{command}: expected {what} first; see fastgan {command} --help")
    return argv[0], argv[1:]


def _sentence_in(panel: str) -> str:
    """The first paragraph inside a panel that tyro drew."""
    lines = [line.strip("│ ") for line in panel.splitlines()[1:]]
    end = next((i for i, line in enumerate(lines) if not line.strip("─╰╯")), len(lines))
    return " ".join(lines[:end]).rstrip(".")
