import numpy as np
import pytest
import torch

from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.classifier import Classifier, accuracy, class_distribution, probabilities, train_classifier

from .conftest import corners


def test_class_distribution_finds_a_missing_class_and_low_confidence():
    network = train_classifier(corners(2000, 0), epochs=2, batch=64)
    held_out = corners(400, 1)
    known = accuracy(network, held_out)
    assert known > 0.95
    missing_one = held_out.images[held_out.labels != 2]
    found = class_distribution(network, missing_one, known)
    assert found.share[2] < 0.02 < 0.2 < min(found.share[[0, 1, 3]])
    assert found.confidence > 0.8
    noise = np.full((50, 1, 16, 16), 128, np.uint8)
    assert class_distribution(network, noise, known).confidence < found.confidence
    assert "accuracy" in found.describe()


def test_training_is_reproducible_and_keeps_the_global_rng_state():
    rng_state = torch.get_rng_state()
    networks = [train_classifier(corners(256, 0), batch=64, seed=3) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), rng_state)
    images = corners(8, 1).images
    assert np.array_equal(probabilities(networks[0], images), probabilities(networks[1], images))


def test_unlabeled_images_are_an_error():
    unlabeled = ImageSet(corners(8, 0).images, None, "mine", "none")
    with pytest.raises(UsageError, match="train: expected labeled images, mine has no labels"):
        train_classifier(unlabeled)
    with pytest.raises(UsageError, match="held_out"):
        accuracy(Classifier(1, 4), unlabeled)
