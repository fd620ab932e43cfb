"""Fréchet inception distance: between Gaussians fitted to features (Heusel et al. 2017, arXiv:1706.08500)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import DataError, UsageError
from fastgan.metrics.features import checked, checked_pair

_ROWS = 4096


@dataclass(frozen=True)
class Statistics:
    """Of n feature vectors: mean float64 [D], covariance float64 [D, D] (divided by n − 1)."""

    n: int
    mean: Tensor
    covariance: Tensor

    @property
    def singular(self) -> bool:
        """Whether there are too few samples for a covariance matrix of full rank."""
        return self.n <= len(self.mean)


class Moments:
    """Mean and covariance of features that come in blocks, in float64.

    Blocks are merged by the parallel algorithm of Chan, Golub and LeVeque 1979.
    """

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._scatter = torch.zeros(0, dtype=torch.float64)

    def update(self, features: Tensor | np.ndarray) -> Moments:
        """Accumulate features [N, D]. Raises DataError if they are NaN or infinite, UsageError for another D."""
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
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).

    tr (Σ_a Σ_b)^½ is the sum of the square roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½. This matrix is symmetric, so
    the result is neither complex nor NaN and nothing has to be added to the diagonals. Directions in which a singular
    Σ_a has no variance do not contribute and are omitted. Raises UsageError for statistics of different sizes,
    DataError if they are NaN or infinite.
    """
    if a.mean.shape != b.mean.shape:
        raise UsageError(f"b: expected statistics of {len(a.mean)} features, got {len(b.mean)}")
    for name, part in (("a", a), ("b", b)):
        if not (torch.isfinite(part.mean).all() and torch.isfinite(part.covariance).all()):
            raise DataError(f"{name}: the statistics are NaN or infinite")
    values, vectors = torch.linalg.eigh(a.covariance)
    kept = values > _rounding_error(values)
    half = vectors[:, kept] * values[kept].sqrt()
    product = torch.linalg.eigvalsh(half.T @ b.covariance @ half)
    root = product[product > _rounding_error(product)].sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace()
    distance = float((a.mean - b.mean).square().sum() + spread - 2 * root)
    # For equal sets this is a difference of equal numbers, which rounding may make negative.
    return 0.0 if abs(distance) <= 1e-12 * float(spread) else distance


def fid(real: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> float:
    """Fréchet distance between features [N, D] and [M, D], N and M at least 2. Biased for small N and M."""
    x, y = checked_pair(real, fake)
    return frechet_distance(Moments().update(x).statistics(), Moments().update(y).statistics())


def _rounding_error(values: Tensor) -> float:
    """Eigenvalues up to this are 0 within rounding."""
    return float(values.amax().clamp(min=0)) * len(values) * torch.finfo(torch.float64).eps if len(values) else 0.0
