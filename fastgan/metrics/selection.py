"""Samples chosen by a score, and what the choice costs: what a discriminator likes best is not all there is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastgan.errors import UsageError
from fastgan.metrics.features import Extractor
from fastgan.metrics.prdc import Prdc, prdc
from fastgan.metrics.reference import reference_features


class Cost(NamedTuple):
    """Figures of so many samples against as many real images: as they are drawn, and of the best of more."""

    samples: int
    drawn: Prdc
    kept: Prdc

    def sentence(self) -> str:
        """For a person, on one line: the loss first."""
        names = ("coverage", "recall", "precision", "density")
        figures = (f"{n} {getattr(self.drawn, n):.3f} → {getattr(self.kept, n):.3f}" for n in names)
        return f"{', '.join(figures)} ({self.samples:,} samples against as many real images)"


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the `count` highest scores [N], ascending. UsageError where there are fewer, or one is NaN."""
    if np.isnan(scores).any() or not 1 <= count <= len(scores):
        raise UsageError(
            f"scores: expected at least {count} numbers, got {len(scores)} with {np.isnan(scores).sum()} NaN"
        )
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def cost(extractor: Extractor, real: np.ndarray, fake: np.ndarray, scores: np.ndarray) -> Cost:
    """What keeping the len(real) best of more samples costs.

    real, fake: uint8 [N, C, H, W] and [M, C, H, W] with M > N; scores: [M], higher is better. Compared with the first N
    samples: with as many, as these figures depend on the number.
    """
    if len(fake) <= len(real):
        raise UsageError(f"fake: expected more than the {len(real)} real images to choose from, got {len(fake)}")
    chosen, of_real = best(scores, len(real)), reference_features(extractor, real).features
    drawn, kept = (prdc(of_real, extractor(images).features) for images in (fake[: len(real)], fake[chosen]))
    return Cost(len(real), drawn, kept)
