"""Labeled images that a small classifier tells apart in a few steps."""

import numpy as np
import pytest

from fastgan.data import ImageSet


def corners(counts, seed, names=None):
    """Gray 8×8 images with a bright patch of varied brightness in one of four corners, labeled by it."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    images = rng.integers(0, 100, (len(labels), 1, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[:, top : top + 4, left : left + 4] += np.uint8(rng.integers(60, 150))
    return ImageSet(images, labels, "corners", "none", names)


@pytest.fixture
def real():
    return corners([30, 30, 30, 10], 0)
