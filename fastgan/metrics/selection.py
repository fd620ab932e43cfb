"""Keeping the samples with the highest scores, and how it changes precision, recall, density and coverage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastgan.errors import UsageError
from fastgan.metrics.features import Extractor, reference_features
from fastgan.metrics.prdc import Prdc, prdc


class Cost(NamedTuple):
    """Metrics of `samples` samples against as many real images: of random samples, and of the best of more samples."""

    samples: int
    random: Prdc
    kept: Prdc

    def sentence(self) -> str:
        """One line of text, the metrics that fall first."""
        names = ("coverage", "recall", "precision", "density")
        values = (f"{n} {getattr(self.random, n):.3f} → {getattr(self.kept, n):.3f}" for n in names)
        return f"{', '.join(values)} ({self.samples:,} samples, {self.samples:,} real images)"


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` highest scores [N], ascending. UsageError if there are fewer scores or one is NaN."""
    if np.isnan(scores).any() or not 1 <= count <= len(scores):
        raise UsageError(
            f"scores: expected at least {count} numbers, got {len(scores)} with {np.isnan(scores).sum()} NaN"
        )
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def cost(extractor: Extractor, real: np.ndarray, fake: np.ndarray, scores: np.ndarray) -> Cost:
    """Precision, recall, density and coverage of the N best of M samples, and of the first N samples.

    Both are computed for N samples, because these metrics depend on the number. real, fake: uint8 [N, C, H, W] and
    [M, C, H, W] with M > N; scores: [M], higher is better. Raises UsageError for M <= N.
    """
    if len(fake) <= len(real):
        raise UsageError(f"fake: expected more than the {len(real)} real images to choose from, got {len(fake)}")
    chosen, real_features = best(scores, len(real)), reference_features(extractor, real).features
    random, kept = (prdc(real_features, extractor(images).features) for images in (fake[: len(real)], fake[chosen]))
    return Cost(len(real), random, kept)
