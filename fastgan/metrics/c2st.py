"""Can they be told from real images, and by what: a classifier two-sample test (Lopez-Paz and Oquab 2017,
arXiv:1610.06545), and the samples that gave themselves away."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.cas import learn
from fastgan.metrics.modes import probabilities

_FEWEST = 32
_SHOWN, _COLUMNS = 32, 8


class TwoSampleTest(NamedTuple):
    """accuracy: share of `tested` images, half of them real, that a classifier of the other images takes for what they
    are; 0.5 where samples are as real ones. chance: what it exceeds once in twenty times if they are. order: numbers of
    the samples among the tested, the most tell-tale first."""

    accuracy: float
    tested: int
    chance: float
    order: np.ndarray


def c2st(real: np.ndarray, fake: np.ndarray, *, seed: int = 0) -> TwoSampleTest:
    """Train a classifier, real against generated, on one half of the images and test it on the other.

    real, fake: uint8 [N, C, H, W] and [M, C, H, W], of which as many of either are taken as both have, drawn by the
    seed. Raises UsageError for fewer than 32 of either.
    """
    count = min(len(real), len(fake))
    if count < _FEWEST:
        raise UsageError(f"fake: expected at least {_FEWEST} samples and real images, got {len(fake)} and {len(real)}")
    half, rng = count // 2, np.random.default_rng(seed)
    chosen = [rng.permutation(len(images))[: 2 * half] for images in (fake, real)]
    labels = np.repeat(np.array([0, 1]), half)
    seen, asked = (
        np.concatenate([images[c[side]] for images, c in zip((fake, real), chosen, strict=True)])
        for side in (slice(0, half), slice(half, None))
    )
    network = learn(ImageSet(seen, labels, "samples and real images", ""), 2, seed)
    looks_real = probabilities(network, asked)[:, 1]
    return TwoSampleTest(
        accuracy=float(((looks_real > 0.5) == labels).mean()),
        tested=len(labels),
        chance=0.5 + 1.645 * (0.25 / len(labels)) ** 0.5,
        order=chosen[0][half:][looks_real[:half].argsort(kind="stable")],
    )


def sheet(fake: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Images for a grid of 8 columns: the most tell-tale samples, a white row, and those that pass best for real."""
    shown = min(_SHOWN, len(order) // 2) // _COLUMNS * _COLUMNS
    white = np.full((_COLUMNS, *fake.shape[1:]), 255, np.uint8)
    return np.concatenate([fake[order[:shown]], white, fake[order[::-1][:shown]]])
