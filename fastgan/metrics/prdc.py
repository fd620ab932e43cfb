"""Fidelity and coverage apart: improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and
coverage (Naeem et al. 2020, arXiv:2002.09797)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.metrics.distances import neighbour_radii, squared_distances
from fastgan.metrics.features import both


class Prdc(NamedTuple):
    """precision: share of generated samples inside the real manifold; recall: of real ones inside the generated;
    density: how many real balls hold a generated sample, per k; coverage: share of real balls that hold any."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, *, k: int) -> Prdc:
    """All four of features [N, D] and [M, D]; a manifold is the balls around its samples that reach their k-th neighbours.

    Exact neighbours, in blocks. Raises UsageError unless there are more than k samples on both sides.
    """
    x, y = both(real, fake)
    for name, part in (("real", x), ("fake", y)):
        if not 1 <= k < len(part):
            raise UsageError(f"k: expected from 1 to {len(part) - 1} for {len(part)} {name} samples, got {k}")
    real_radii, fake_radii = neighbour_radii(x, k), neighbour_radii(y, k)
    balls = torch.zeros(len(y), dtype=torch.long, device=y.device)
    recalled = covered = 0
    for rows, block in squared_distances(x, y):
        inside = block < real_radii[rows, None]
        balls += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((block < fake_radii[None]).any(1).sum())
    return Prdc(
        precision=float((balls > 0).double().mean()),
        recall=recalled / len(x),
        density=float(balls.double().mean() / k),
        coverage=covered / len(x),
    )
