"""Two halves of a set of real images, a trained extractor, and an empty cache directory for each test."""

import numpy as np
import pytest

from fastgan.data import ImageSet, open_source


@pytest.fixture(autouse=True)
def cache_directory(tmp_path_factory, monkeypatch):
    """An empty directory, so that no test reads or changes the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FASTGAN_CACHE", str(folder))
    return folder


def subset(images: ImageSet, chosen) -> ImageSet:
    chosen = np.asarray(chosen)
    labels = None if images.labels is None else images.labels[chosen]
    return ImageSet(
        np.ascontiguousarray(images.images[chosen]), labels, images.name, images.license, images.class_names
    )


@pytest.fixture(scope="session")
def halves():
    """Fashion-MNIST's test images, 5,000 and 5,000."""
    images = open_source("embedded")
    order = np.random.default_rng(0).permutation(len(images))
    return subset(images, order[:5000]), subset(images, order[5000:])


@pytest.fixture(scope="session")
def digits(halves, tmp_path_factory):
    """The digits extractor, trained on the second half."""
    from fastgan.metrics.extractors import digits

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTGAN_CACHE", str(tmp_path_factory.mktemp("digits")))
        return digits.train(halves[1])


def corners(n, seed):
    """n gray 16×16 images with a bright patch in one of four corners, labeled by the corner."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    images = rng.integers(0, 100, (n, 1, 16, 16), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 8 * (label // 2), 8 * (label % 2)
        image[:, top : top + 8, left : left + 8] += 120
    return ImageSet(images, labels.astype(np.int64), "corners", "none")
