"""Checks of options, and the sentences in which they fail."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastgan.errors import UsageError

Rule = tuple[Callable[[Any], bool], str]

#: What a value must be, and how to say it.
AT_LEAST_ONE: Rule = (lambda value: value >= 1, "a number >= 1")
POSITIVE: Rule = (lambda value: value > 0, "a number > 0")
NOT_NEGATIVE: Rule = (lambda value: value >= 0, "a number >= 0")
FRACTION: Rule = (lambda value: 0 <= value < 1, "a number in [0, 1)")


def one_of(choices: Sequence[str]) -> Rule:
    """The rule for a value out of a few."""
    return (lambda value: value in choices, f"{', '.join(choices[:-1])} or {choices[-1]}")


def expect(options: Any, names: Iterable[str], rule: Rule) -> None:
    """Raise UsageError where an attribute of `options` is neither None nor as the rule wants it."""
    holds, expected = rule
    for name in names:
        value = getattr(options, name)
        try:
            right = value is None or holds(value)
        except TypeError:  # a text cannot be compared with a number
            right = False
        if not right:
            raise UsageError(f"{name}: expected {expected}, got {value!r}")


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """`unknown KIND 'name'; did you mean 'nearest'?`, or the known ones where they are few and none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}" if len(known) <= 20 else ""
    return f"unknown {kind} {name!r}{hint}"
