"""Class labels of a conditional generator: defaults and checks. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgan.errors import UsageError
from fastgan.runtime.spec import Inputs, Spec


def in_turn(n: int, classes: int, start: int = 0) -> np.ndarray:
    """y int64 [n]: start, start + 1, … modulo classes."""
    return np.arange(start, start + n) % classes


def one_hot(y: np.ndarray, classes: int) -> np.ndarray:
    """c float32 [n, classes] for labels y int64 [n]."""
    return np.eye(classes, dtype=np.float32)[y]


def given(spec: Spec, y: np.ndarray) -> Inputs:
    """The second input for labels y, as the spec wants it: a tuple of one array, or an empty one without classes."""
    return () if not spec.classes else (one_hot(y, spec.classes),) if spec.label_vectors else (y,)


def default(spec: Spec, n: int, start: int = 0) -> Inputs:
    """The second input with labels start, start + 1, … modulo the number of classes; an empty tuple without classes."""
    return given(spec, in_turn(n, spec.classes, start)) if spec.classes else ()


def of_class(label: int, n: int, classes: int) -> np.ndarray:
    """y int64 [n], all of one class. classes: their number, 0 for an unconditional generator. Raises UsageError."""
    if not classes:
        raise UsageError("class: the generator was trained without labels, it has no classes to choose from")
    if not 0 <= label < classes:
        raise UsageError(f"class: expected a number from 0 to {classes - 1}, got {label}")
    return np.full(n, label, np.int64)


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
        raise UsageError(f"y: expected {wanted}, a label for each {one}, got {came} {list(y.shape)}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise UsageError(f"y: expected labels from 0 to {classes - 1}, got {low if low < 0 else high}")
