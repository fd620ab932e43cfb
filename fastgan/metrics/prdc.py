"""Fidelity and coverage apart: improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and
coverage (Naeem et al. 2020, arXiv:2002.09797)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.metrics.distances import neighbor_radii, squared_distances
from fastgan.metrics.features import both

#: Neighbors that a ball reaches, as the two papers have them.
K_PRECISION, K_DENSITY = 3, 5


class Prdc(NamedTuple):
    """precision: share of generated samples inside the real manifold; recall: of real ones inside the generated;
    density: how many real balls hold a generated sample, per k; coverage: share of real balls that hold any."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(
    real: Tensor | np.ndarray, fake: Tensor | np.ndarray, *, k: int = K_PRECISION, k_density: int = K_DENSITY
) -> Prdc:
    """All four of features [N, D] and [M, D]; a manifold is the open balls around its samples that reach to their k-th
    neighbors (k for precision and recall, k_density for density and coverage).

    Exact neighbors, in blocks. Raises UsageError unless there are more samples than neighbors on both sides.
    """
    x, y = both(real, fake)
    for name, part in (("real", x), ("fake", y)):
        if not 1 <= min(k, k_density) <= max(k, k_density) < len(part):
            raise UsageError(
                f"k: expected from 1 to {len(part) - 1} neighbors for {len(part)} {name} samples,"
                f" got {k} and {k_density}"
            )
    near, wide = neighbor_radii(x, k, k_density)
    (fake_radii,) = neighbor_radii(y, k)
    inside_any = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    balls = recalled = covered = 0
    for rows, block in squared_distances(x, y):
        inside_any |= (block < near[rows, None]).any(0)
        recalled += int((block < fake_radii[None]).any(1).sum())
        inside = block < wide[rows, None]
        balls += int(inside.sum())
        covered += int(inside.any(1).sum())
    return Prdc(
        precision=float(inside_any.double().mean()),
        recall=recalled / len(x),
        density=balls / (k_density * len(y)),
        coverage=covered / len(x),
    )
