"""Class labels of a conditional generator: defaults and checks. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastgan._util.checks import unknown
from fastgan.errors import UsageError


def in_turn(n: int, classes: int, start: int = 0) -> np.ndarray:
    """y int64 [n]: start, start + 1, … modulo classes."""
    return np.arange(start, start + n) % classes


def number_of(label: int | str, classes: int, names: Sequence[str] = ()) -> int:
    """The number of a class: of its name, which counts before a number of the same digits, or the number itself.

    classes: their number, 0 for an unconditional generator. names: of the classes in order, where they are known.
    Raises UsageError for a class that is not there.
    """
    if not classes:
        raise UsageError("class: the generator was trained without labels, it has no classes to choose from")
    if isinstance(label, str) and label in names:
        return list(names).index(label)
    expected = f"a number from 0 to {classes - 1}" + (" or a name" if names else "")
    try:
        number = int(label)
    except ValueError:
        hint = unknown("name", str(label), names) if names else "the names of its classes are not stored with it"
        raise UsageError(f"class: expected {expected}, got {label!r}; {hint}") from None
    if not 0 <= number < classes:
        raise UsageError(f"class: expected {expected}, got {number}")
    return number


def of_class(label: int | str, n: int, classes: int, names: Sequence[str] = ()) -> np.ndarray:
    """y int64 [n], all of one class. Arguments and errors as of `number_of`."""
    return np.full(n, number_of(label, classes, names), np.int64)


def names_in(about: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names of the classes among the facts about a generator, or () where they are not there."""
    names = about.get("class_names")
    if not isinstance(names, list | tuple) or len(names) != classes or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def described(label: int, names: Sequence[str]) -> str:
    """ "class 3 (cat)", or "class 3" without names."""
    return f"class {label} ({names[label]!r})" if names else f"class {label}"


def check(y: Any, n: int, classes: int) -> None:
    """Raise UsageError unless y, a numpy array or torch tensor, is int64 [n] of 0 to classes − 1."""
    if (came := str(y.dtype).removeprefix("torch.")) != "int64" or tuple(y.shape) != (n,):
        hot = "; of one-hot rows take y.argmax(1)" if tuple(y.shape) == (n, classes) else ""
        raise UsageError(f"y: expected int64 [{n}], a label for each z, got {came} {list(y.shape)}{hot}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise UsageError(f"y: expected labels from 0 to {classes - 1}, got {low if low < 0 else high}")
