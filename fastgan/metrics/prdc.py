"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
arXiv:2002.09797): fidelity and variety of samples as separate numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.metrics.features import checked_pair
from fastgan.metrics.neighbors import neighbor_radii, squared_distances

#: The neighbor that is the radius of a ball, k in the two papers.
K_PRECISION, K_DENSITY = 3, 5


class Prdc(NamedTuple):
    """precision: fraction of generated samples in the real manifold. recall: fraction of real samples in the generated
    manifold. density: mean number of real balls that a generated sample is in, divided by k. coverage: fraction of real
    balls that contain a generated sample."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(
    real: Tensor | np.ndarray, fake: Tensor | np.ndarray, *, k: int = K_PRECISION, k_density: int = K_DENSITY
) -> Prdc:
    """All four for features [N, D] and [M, D].

    A manifold is the union of open balls around its samples, with the distance to the k-th nearest neighbor as radius
    (k for precision and recall, k_density for density and coverage). Neighbors are exact, computed in blocks. Raises
    UsageError unless both numbers of samples are greater than k and k_density.
    """
    x, y = checked_pair(real, fake)
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
