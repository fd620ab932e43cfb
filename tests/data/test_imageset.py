import dataclasses

import numpy as np
import pytest

from fastgan.data import ImageSet
from fastgan.errors import UsageError

GRAY = np.arange(2 * 1 * 3 * 4, dtype=np.uint8).reshape(2, 1, 3, 4)
LABELS = np.array([0, 1], np.int64)


def test_properties():
    images = ImageSet(GRAY, LABELS, "set", "MIT", ("cat", "dog"))
    assert (len(images), images.resolution, images.channels, images.num_classes) == (2, (3, 4), 1, 2)
    assert ImageSet(GRAY, LABELS * 6, "set", "MIT").num_classes == 7
    assert ImageSet(GRAY, None, "set", "MIT").num_classes == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.name = "other"


def test_describe_tells_every_fact():
    text = ImageSet(GRAY + 10, np.array([1, 1]), "set", "MIT", ("cat", "dog")).describe()
    for fact in ("set: 2 images", "3 × 4", "1 (gray)", "10..33, mean 21.5", "2: cat 0, dog 2", "license  MIT"):
        assert fact in text
    assert "no labels" in ImageSet(GRAY, None, "set", "MIT").describe()
    many = ImageSet(GRAY, np.array([0, 14]), "set", "MIT").describe()
    assert "15: 0 1, 1 0" in many
    assert many.count(" and 3 more") == 1


def test_describe_looks_at_every_chunk(monkeypatch):
    monkeypatch.setattr("fastgan.data.imageset._CHUNK", 2)
    images = np.full((5, 1, 2, 2), 100, np.uint8)
    images[0], images[4] = 3, 250
    assert "3..250, mean 110.6" in ImageSet(images, None, "set", "MIT").describe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [1]}, "images: expected a numpy array, got list"),
        ({"images": GRAY.astype(np.float32)}, r"images: expected uint8 \[N, C, H, W\], got float32"),
        ({"images": GRAY[0]}, r"images: expected uint8 \[N, C, H, W\], got uint8 \[1, 3, 4\]"),
        ({"images": np.zeros((2, 4, 3, 3), np.uint8)}, "expected 1 or 3 channels, got 4"),
        ({"images": GRAY[:0]}, "at least one image"),
        ({"images": GRAY[:, :, :, ::2]}, "C-contiguous"),
        ({"labels": [0, 1]}, r"labels: expected int64 \[2\], one for each image, got list"),
        ({"labels": LABELS.astype(np.int32)}, r"labels: expected int64 \[2\].* got int32"),
        ({"labels": LABELS[:1]}, r"labels: expected int64 \[2\].* got int64 \[1\]"),
        ({"labels": LABELS - 1}, "labels: expected numbers from 0, got -1"),
        ({"class_names": ("cat",)}, "class_names: expected a name for each label up to 1, got 1"),
        ({"labels": None}, "class_names: expected None"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    fields = {"images": GRAY, "labels": LABELS, "name": "set", "license": "MIT", "class_names": ("cat", "dog")}
    with pytest.raises(UsageError, match=message):
        ImageSet(**(fields | change))
