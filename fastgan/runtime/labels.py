"""Class labels of a conditional generator: defaults and checks. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastgan._util.checks import unknown
from fastgan.errors import UsageError
from fastgan.runtime.spec import Inputs, Spec


def in_turn(n: int, classes: int, start: int = 0) -> np.ndarray:
    """y int64 [n]: start, start + 1, … modulo classes."""
    return np.arange(start, start + n) % classes


def one_hot(y: np.ndarray, classes: int) -> np.ndarray:
    """c float32 [n, classes] for labels y int64 [n]."""
    vectors = np.zeros((len(y), classes), np.float32)
    vectors[np.arange(len(y)), y] = 1
    return vectors


def given(spec: Spec, y: np.ndarray) -> Inputs:
    """The second input for labels y, as the spec wants it: a tuple of one array, or an empty one without classes."""
    return () if not spec.classes else (one_hot(y, spec.classes),) if spec.label_vectors else (y,)


def default(spec: Spec, n: int, start: int = 0) -> Inputs:
    """The inputs after the first: labels start, start + 1, … modulo the number of classes, and the defaults of
    controls."""
    labels = given(spec, in_turn(n, spec.classes, start)) if spec.classes else ()
    return (*labels, *(control.values(n) for control in spec.controls))


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


def check(y: Any, n: int, spec: Spec) -> None:
    """Raise UsageError unless y, a numpy array or torch tensor, is int64 [n] of 0 to classes − 1.

    With spec.label_vectors it may also be float32 [n, classes].
    """
    classes, vectors = spec.classes, spec.label_vectors
    came, shape = str(y.dtype).removeprefix("torch."), tuple(y.shape)
    if vectors and came == "float32" and shape == (n, classes):
        return
    if came != "int64" or shape != (n,):
        wanted = f"float32 [{n}, {classes}], or int64 [{n}] for one-hot vectors" if vectors else f"int64 [{n}]"
        one = "image" if spec.kind == "image" else "signal" if spec.kind == "signal" else "z"
        hot = "; of one-hot rows take y.argmax(1)" if shape == (n, classes) and not vectors else ""
        raise UsageError(f"y: expected {wanted}, a label for each {one}, got {came} {list(y.shape)}{hot}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise UsageError(f"y: expected labels from 0 to {classes - 1}, got {low if low < 0 else high}")
