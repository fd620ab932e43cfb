"""How messages name an option: as an argument of Python, or as a flag while the command line runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_flags = False
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)")


@contextmanager
def as_flags() -> Iterator[None]:
    """A context in which options are named as flags: the command line's."""
    global _flags
    before, _flags = _flags, True
    try:
        yield
    finally:
        _flags = before


def option(name: str, value: object = None) -> str:
    """`d_norm='none'`, or `--d-norm none` on the command line; `d_norm` or `--d-norm` without a value.

    True is a flag without a value: `resume=True` or `--resume`.
    """
    if not _flags:
        return name if value is None else f"{name}={value!r}"
    flag = f"--{name.replace('_', '-')}"
    return flag if value is None or value is True else f"{flag} {value}"


def named(text: str) -> str:
    """A text about flags as it is on the command line, for Python with the names of arguments: `--lr-d` is `lr_d`."""
    return text if _flags else _FLAG.sub(lambda found: found[1].replace("-", "_"), text)
