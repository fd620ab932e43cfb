"""Real pictures in two halves, and a cache of their own."""

import numpy as np
import pytest

from fastgan.data import ImageSet, open_source


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test sees, or adds to, the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FASTGAN_CACHE", str(folder))
    return folder


def part(images: ImageSet, chosen) -> ImageSet:
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
    return part(images, order[:5000]), part(images, order[5000:])


@pytest.fixture(scope="session")
def digits(halves, tmp_path_factory):
    """The digits extractor of the second half."""
    from fastgan.metrics.extractors import digits

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTGAN_CACHE", str(tmp_path_factory.mktemp("digits")))
        return digits.train(halves[1], say=lambda line: None)
