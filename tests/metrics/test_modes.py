import numpy as np
import pytest
import torch

from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.modes import Classifier, accuracy, judge, probabilities, train_classifier


def corners(n, seed):
    """Images with a bright patch in one of four corners, labeled by the corner."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    images = rng.integers(0, 100, (n, 1, 16, 16), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 8 * (label // 2), 8 * (label % 2)
        image[:, top : top + 8, left : left + 8] += 120
    return ImageSet(images, labels.astype(np.int64), "corners", "none")


def test_judge_counts_the_classes_and_knows_its_own_accuracy():
    network = train_classifier(corners(2000, 0), epochs=2, batch=64)
    held_out = corners(400, 1)
    own = accuracy(network, held_out)
    assert own > 0.95
    missing_one = held_out.images[held_out.labels != 2]
    verdict = judge(network, missing_one, own)
    assert verdict.share[2] < 0.02 < 0.2 < min(verdict.share[[0, 1, 3]])
    assert verdict.confidence > 0.8
    noise = np.full((50, 1, 16, 16), 128, np.uint8)
    assert judge(network, noise, own).confidence < verdict.confidence
    assert "accuracy" in verdict.describe()


def test_training_repeats_and_leaves_the_global_seed_alone():
    state = torch.get_rng_state()
    networks = [train_classifier(corners(256, 0), batch=64, seed=3) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    images = corners(8, 1).images
    assert np.array_equal(probabilities(networks[0], images), probabilities(networks[1], images))


def test_labels_are_needed():
    unlabeled = ImageSet(corners(8, 0).images, None, "mine", "none")
    with pytest.raises(UsageError, match="train: expected labeled images, mine has no labels"):
        train_classifier(unlabeled)
    with pytest.raises(UsageError, match="held_out"):
        accuracy(Classifier(1, 4), unlabeled)
