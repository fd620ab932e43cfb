"""Squared distances between sets of features, and nearest neighbors, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastgan.errors import UsageError

#: Bytes that a block of distances takes. What else is held: one block of rows and one of columns in float64.
BLOCK = 1 << 26
_COLUMNS = 4096


def squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of ‖x_i − y_j‖²: (rows, float64 [rows, M]), for x [N, D] and y [M, D].

    By ‖x‖² + ‖y‖² − 2 x·y in float64 around y's mean: for float32 features their rounding stays the larger error, near
    duplicates included; distances below about 1e-7 of the features' spread are not told from 0.
    """
    center = y.mean(0, dtype=torch.float64)
    rows = max(1, min(len(x), BLOCK // (8 * max(len(y), _COLUMNS))))
    for start in range(0, len(x), rows):
        a = x[start : start + rows].double() - center
        block = torch.empty(len(a), len(y), dtype=torch.float64, device=x.device)
        for column in range(0, len(y), _COLUMNS):
            b = y[column : column + _COLUMNS].double() - center
            part = block[:, column : column + _COLUMNS]
            torch.addmm(b.square().sum(1)[None].expand(len(a), -1), a, b.T, alpha=-2, out=part)
        block.add_(a.square().sum(1)[:, None]).clamp_(min=0)
        yield slice(start, start + len(a)), block


def neighbor_radii(x: Tensor, *ks: int) -> Tensor:
    """Squared distance of each x_i [D] to its k-th nearest other one, for each of ks: float64 [len(ks), N].

    Raises UsageError unless 1 <= k < N.
    """
    if not 1 <= min(ks) <= max(ks) < len(x):
        raise UsageError(f"k: expected from 1 to {len(x) - 1} neighbors for {len(x)} samples, got {ks}")
    radii = torch.empty(len(ks), len(x), dtype=torch.float64, device=x.device)
    for rows, block in squared_distances(x, x):
        _themselves(block, rows).fill_(torch.inf)
        # topk: kthvalue takes ten times as long on the CPU
        radii[:, rows] = block.topk(max(ks), dim=1, largest=False).values[:, [k - 1 for k in ks]].T
    return radii


def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to, and index of, the nearest y of each x. Where y is x itself: the nearest other one."""
    if x is y and len(x) < 2:
        raise UsageError(f"x: expected at least 2 samples to have neighbors, got {len(x)}")
    distance = torch.empty(len(x), dtype=torch.float64, device=x.device)
    index = torch.empty(len(x), dtype=torch.long, device=x.device)
    for rows, block in squared_distances(x, y):
        if x is y:
            _themselves(block, rows).fill_(torch.inf)
        distance[rows], index[rows] = block.min(1)
    return distance, index


def _themselves(block: Tensor, rows: slice) -> Tensor:
    """The part of a block of rows in which samples meet themselves."""
    return block[:, rows].diagonal()
