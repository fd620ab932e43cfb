"""The resize filters of FID protocols. Each is a matrix for an axis, so it runs on any device.

"clean": antialiased bicubic in floating point, as Pillow resizes images of mode F and as clean-fid does (Parmar et al.
2022, arXiv:2104.11222); values are neither rounded nor clipped. "legacy": bilinear without antialiasing, source
coordinate = target coordinate · in / out, as in TensorFlow 1, with which the first FIDs were computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError


def resize(images: Tensor, size: int, filter: str) -> Tensor:
    """Images [N, C, H, W], any values, to float32 [N, C, size, size]. Raises UsageError for an unknown filter."""
    if filter not in FILTERS:
        raise UsageError(f"filter: expected one of {', '.join(FILTERS)}, got {filter!r}")
    x = images.float()
    height, width = x.shape[-2:]
    # Horizontally first, as in Pillow.
    if width != size:
        x = x @ _matrix(width, size, filter).to(x.device).T
    if height != size:
        x = _matrix(height, size, filter).to(x.device) @ x
    return x


@cache
def _matrix(source: int, target: int, filter: str) -> Tensor:
    """float32 [target, source]; each row sums to 1."""
    return torch.from_numpy(FILTERS[filter](source, target).astype(np.float32))


def _antialiased_bicubic(source: int, target: int) -> np.ndarray:
    scale = source / target
    stretch = max(scale, 1.0)  # downsampling widens the filter
    center = (np.arange(target) + 0.5) * scale
    reach = 2.0 * stretch
    first = np.maximum((center - reach + 0.5).astype(int), 0)[:, None]
    last = np.minimum((center + reach + 0.5).astype(int), source)[:, None]
    column = np.arange(source)[None]
    weights = _cubic((column + 0.5 - center[:, None]) / stretch) * ((column >= first) & (column < last))
    return weights / weights.sum(1, keepdims=True)


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """The cubic kernel of Keys 1981 with a = -0.5, as in Pillow."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _bilinear_corners(source: int, target: int) -> np.ndarray:
    at = np.arange(target) * (source / target)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, source - 1)
    weights = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(weights, (rows, low), 1 - (at - low))
    np.add.at(weights, (rows, high), at - low)
    return weights


FILTERS: dict[str, Callable[[int, int], np.ndarray]] = {
    "clean": _antialiased_bicubic,
    "legacy": _bilinear_corners,
}
