"""Class labels of a conditional generator: defaults and checks. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgan.errors import UsageError


def in_turn(n: int, classes: int, start: int = 0) -> np.ndarray:
    """y int64 [n]: start, start + 1, … modulo classes."""
    return np.arange(start, start + n) % classes


def of_class(label: int, n: int, classes: int) -> np.ndarray:
    """y int64 [n], all of one class. classes: their number, 0 for an unconditional generator. Raises UsageError."""
    if not classes:
        raise UsageError("class: the generator was trained without labels, it has no classes to choose from")
    if not 0 <= label < classes:
        raise UsageError(f"class: expected a number from 0 to {classes - 1}, got {label}")
    return np.full(n, label, np.int64)


def check(y: Any, n: int, classes: int) -> None:
    """Raise UsageError unless y, a numpy array or torch tensor, is int64 [n] of 0 to classes − 1."""
    if (came := str(y.dtype).removeprefix("torch.")) != "int64" or tuple(y.shape) != (n,):
        raise UsageError(f"y: expected int64 [{n}], a label for each z, got {came} {list(y.shape)}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise UsageError(f"y: expected labels from 0 to {classes - 1}, got {low if low < 0 else high}")
