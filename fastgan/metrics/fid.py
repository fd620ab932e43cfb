"""Fréchet distance between Gaussians of features (Heusel et al. 2017, arXiv:1706.08500)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import DataError, UsageError
from fastgan.metrics.features import both, checked

_ROWS = 4096


@dataclass(frozen=True)
class Statistics:
    """Of n features: mean float64 [D], covariance float64 [D, D] (divided by n − 1)."""

    n: int
    mean: Tensor
    covariance: Tensor

    @property
    def singular(self) -> bool:
        """Whether there are too few samples for a covariance of full rank."""
        return self.n <= len(self.mean)


class Moments:
    """Mean and covariance of features that come a block at a time, in float64; blocks are merged as Chan et al. do."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._scatter = torch.zeros(0, dtype=torch.float64)

    def update(self, features: Tensor | np.ndarray) -> Moments:
        """Take in features [N, D]. Raises DataError where they are not finite."""
        for part in checked(features).split(_ROWS):
            x = part.double()
            n, mean = len(x), x.mean(0)
            x = x - mean
            scatter = x.T @ x
            if self._n == 0:
                self._n, self._mean, self._scatter = n, mean, scatter
                continue
            if len(mean) != len(self._mean):
                raise UsageError(f"features: expected [N, {len(self._mean)}] as before, got {list(part.shape)}")
            delta, total = mean - self._mean, self._n + n
            self._scatter += scatter + torch.outer(delta, delta) * (self._n * n / total)
            self._mean = self._mean + delta * (n / total)
            self._n = total
        return self

    def statistics(self) -> Statistics:
        """Raises UsageError for fewer than 2 samples."""
        if self._n < 2:
            raise UsageError(f"features: expected at least 2 samples for a covariance, got {self._n}")
        return Statistics(self._n, self._mean, self._scatter / (self._n - 1))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), with the root through symmetric eigenvalues.

    tr (Σ_a Σ_b)^½ is the sum of roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½, which is symmetric, so nothing complex or
    non-finite can come of it, nor is anything added to a diagonal: in the directions in which a singular Σ_a has no
    extent the product has none either, and they are left out.
    """
    if a.mean.shape != b.mean.shape:
        raise UsageError(f"b: expected statistics of {len(a.mean)} features, got {len(b.mean)}")
    for name, part in (("a", a), ("b", b)):
        if not (torch.isfinite(part.mean).all() and torch.isfinite(part.covariance).all()):
            raise DataError(f"{name}: the statistics are NaN or infinite")
    values, vectors = torch.linalg.eigh(a.covariance)
    kept = values > _noise(values)
    half = vectors[:, kept] * values[kept].sqrt()
    product = torch.linalg.eigvalsh(half.T @ b.covariance @ half)
    root = product[product > _noise(product)].sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace()
    distance = float((a.mean - b.mean).square().sum() + spread - 2 * root)
    # Equal sets give a difference of equal numbers, rounded to either side of 0.
    return 0.0 if abs(distance) <= 1e-12 * float(spread) else distance


def fid(real: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> float:
    """Fréchet distance between features [N, D] and [M, D], N and M at least 2."""
    x, y = both(real, fake)
    return frechet_distance(Moments().update(x).statistics(), Moments().update(y).statistics())


def _noise(values: Tensor) -> float:
    """Below this an eigenvalue is what rounding has left of 0."""
    return float(values.amax().clamp(min=0)) * len(values) * torch.finfo(torch.float64).eps if len(values) else 0.0
