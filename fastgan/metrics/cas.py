"""What can be learnt from samples: the classification accuracy score (Ravuri and Vinyals 2019, arXiv:1905.10887).

A classifier is trained on generated images with their labels and tested on real ones. Only samples that hold all that
tells the classes apart, in all its variety, teach as much as real images do; good looks alone do not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.modes import Classifier, accuracy, probabilities, train_classifier

#: Of the classifiers; a part of the protocol.
WIDTH = 16
_SEEN = 30_000  # images seen in training, repetitions included
_FEWEST = 16


class Probe(NamedTuple):
    """accuracy: on `tested` real images, of a classifier that learnt from `learnt` samples; real: of one that learnt
    from as many other real images. own_labels: whether the samples brought their labels."""

    accuracy: float
    real: float
    learnt: int
    tested: int
    own_labels: bool


def probe(samples: ImageSet, real: ImageSet, *, seed: int = 0) -> Probe:
    """The score of samples against labeled real images of the same size, of which one half, drawn by the seed, teaches
    the classifier beside, and the other half tests both.

    Samples without labels get those that the classifier of real images gives them. That measures something else:
    whether the classes can be learnt from these images, not whether a generator makes the class it is asked for.
    Raises UsageError where the real images have no labels, or where there are fewer than 32 of them or 16 samples.
    """
    if real.labels is None:
        raise UsageError(f"real: expected labeled images, {real.name} has no labels")
    if len(samples) < _FEWEST or len(real) < 2 * _FEWEST:
        raise UsageError(
            f"samples: expected at least {_FEWEST}, and {2 * _FEWEST} real images, got {len(samples)} and {len(real)}"
        )
    learnt, classes = min(len(samples), len(real) // 2), real.num_classes
    order = np.random.default_rng(seed).permutation(len(real))
    taught = learn(part(real, order[:learnt]), classes, seed)
    test = part(real, order[len(real) // 2 :])
    chosen = np.random.default_rng(seed).permutation(len(samples))[:learnt]
    images = np.ascontiguousarray(samples.images[chosen])
    if samples.labels is None:
        labels = probabilities(taught, images).argmax(1)
    elif samples.labels.max() < classes:
        labels = samples.labels[chosen]
    else:
        raise UsageError(f"samples: expected labels below {classes}, as {real.name} has, got {samples.labels.max()}")
    student = learn(ImageSet(images, labels, samples.name, samples.license), classes, seed)
    return Probe(accuracy(student, test), accuracy(taught, test), learnt, len(test), samples.labels is not None)


def learn(data: ImageSet, classes: int, seed: int) -> Classifier:
    """A classifier of labeled images that has seen about 30,000 of them, but each at most 20 times."""
    epochs = int(np.clip(round(_SEEN / len(data)), 1, 20))
    return train_classifier(
        data, epochs=epochs, batch=min(128, len(data) // 4), seed=seed, width=WIDTH, classes=classes
    )


def part(data: ImageSet, chosen: np.ndarray) -> ImageSet:
    """Some images of a labeled set."""
    assert data.labels is not None
    return ImageSet(np.ascontiguousarray(data.images[chosen]), data.labels[chosen], data.name, data.license)
