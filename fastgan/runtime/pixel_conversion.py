"""Bytes to network inputs and back, in numpy: the reference for the conversions in the back-ends' graphs."""

from __future__ import annotations

import numpy as np


def to_float(frames: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """frames uint8 [N, H, W, C] → float32 [N, C, H, W]; 0 and 255 become the two limits."""
    low, step = scaling(limits)
    x = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).astype(np.float32)
    x *= step
    if low:
        x += low
    return x


def to_bytes(images: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """images float32 [N, C, H, W] → uint8 [N, H, W, C]: rounded, halves to even; clipped to limits; NaN is 0."""
    low, step = scaling(limits)
    y = (images - low) / step if low else images / step
    with np.errstate(invalid="ignore"):
        y = np.where(y >= 0, y, np.float32(0))  # a NaN compares as false
    return np.ascontiguousarray(np.rint(np.minimum(y, 255)).astype(np.uint8).transpose(0, 2, 3, 1))


def scaling(limits: tuple[float, float]) -> tuple[np.float32, np.float32]:
    """The value of byte 0, and the difference between the values of consecutive bytes."""
    low, high = limits
    return np.float32(low), np.float32((high - low) / 255)
