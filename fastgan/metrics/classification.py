"""Metrics that train a classifier: the classification accuracy score (CAS, Ravuri and Vinyals 2019, arXiv:1905.10887)
and the classifier two-sample test (C2ST, Lopez-Paz and Oquab 2017, arXiv:1610.06545)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.classifier import Classifier, accuracy, probabilities, train_classifier

#: Width of the classifiers; it is part of the metrics' protocol.
WIDTH = 16
_IMAGES_SEEN = 30_000  # by a classifier in training, repetitions included
_MIN_SAMPLES_CAS, _MIN_SAMPLES_C2ST = 16, 32
_GRID_SAMPLES, _GRID_COLUMNS = 32, 8


class ClassificationAccuracy(NamedTuple):
    """The CAS and its baseline.

    accuracy: on `tested` real images, of a classifier trained on `trained` samples. real: of a classifier trained on as
    many other real images. own_labels: whether the samples came with labels.
    """

    accuracy: float
    real: float
    trained: int
    tested: int
    own_labels: bool


def cas(samples: ImageSet, real: ImageSet, *, seed: int = 0) -> ClassificationAccuracy:
    """The classification accuracy score of samples: a classifier is trained on them and tested on real images.

    It is high only if the samples have what distinguishes the classes, in all its variety. real: labeled images of the
    same size; one half, chosen by the seed, trains the baseline, the other half tests both classifiers. Samples without
    labels get pseudo-labels from the baseline; the score then measures whether classes can be learned from the samples,
    not whether a generator makes the class that it was asked for.

    Raises UsageError if the real images have no labels, if there are fewer than 32 of them or 16 samples, and if a
    sample has a label that no real image has.
    """
    if real.labels is None:
        raise UsageError(f"real: expected labeled images, {real.name} has no labels")
    if len(samples) < _MIN_SAMPLES_CAS or len(real) < 2 * _MIN_SAMPLES_CAS:
        raise UsageError(
            f"samples: expected at least {_MIN_SAMPLES_CAS}, and {2 * _MIN_SAMPLES_CAS} real images,"
            f" got {len(samples)} and {len(real)}"
        )
    count, classes = min(len(samples), len(real) // 2), real.num_classes
    order = np.random.default_rng(seed).permutation(len(real))
    baseline = _train(_subset(real, order[:count]), classes, seed)
    test = _subset(real, order[len(real) // 2 :])
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    images = np.ascontiguousarray(samples.images[chosen])
    if samples.labels is None:
        labels = probabilities(baseline, images).argmax(1)
    elif samples.labels.max() < classes:
        labels = samples.labels[chosen]
    else:
        raise UsageError(f"samples: expected labels below {classes}, as {real.name} has, got {samples.labels.max()}")
    network = _train(ImageSet(images, labels, samples.name, samples.license), classes, seed)
    return ClassificationAccuracy(
        accuracy(network, test), accuracy(baseline, test), count, len(test), samples.labels is not None
    )


class TwoSampleTest(NamedTuple):
    """Result of a classifier two-sample test.

    accuracy: on `tested` images, half of them real, of a classifier that was trained on other images; 0.5 if samples
    cannot be distinguished from real images. critical: the accuracy that is exceeded with probability 5 % in that case.
    order: indices of the tested samples, int64, from the most to the least clearly recognized as generated.
    """

    accuracy: float
    tested: int
    critical: float
    order: np.ndarray


def c2st(real: np.ndarray, fake: np.ndarray, *, seed: int = 0) -> TwoSampleTest:
    """Train a classifier, real against generated, on one half of the images and test it on the other half.

    real, fake: uint8 [N, C, H, W] and [M, C, H, W]; min(N, M) of each are used, chosen by the seed. Raises UsageError
    for fewer than 32 of either.
    """
    count = min(len(real), len(fake))
    if count < _MIN_SAMPLES_C2ST:
        raise UsageError(
            f"fake: expected at least {_MIN_SAMPLES_C2ST} samples and real images, got {len(fake)} and {len(real)}"
        )
    half, rng = count // 2, np.random.default_rng(seed)
    chosen = [rng.permutation(len(images))[: 2 * half] for images in (fake, real)]
    labels = np.repeat(np.array([0, 1]), half)
    training, test = (
        np.concatenate([images[c[part]] for images, c in zip((fake, real), chosen, strict=True)])
        for part in (slice(0, half), slice(half, None))
    )
    network = _train(ImageSet(training, labels, "samples and real images", ""), 2, seed)
    probability_real = probabilities(network, test)[:, 1]
    return TwoSampleTest(
        accuracy=float(((probability_real > 0.5) == labels).mean()),
        tested=len(labels),
        critical=0.5 + 1.645 * (0.25 / len(labels)) ** 0.5,
        order=chosen[0][half:][probability_real[:half].argsort(kind="stable")],
    )


def c2st_grid(fake: np.ndarray, order: np.ndarray) -> np.ndarray:
    """uint8 [N, C, H, W] for a grid of 8 columns: samples most clearly generated, a white row, those taken for real."""
    shown = min(_GRID_SAMPLES, len(order) // 2) // _GRID_COLUMNS * _GRID_COLUMNS
    white = np.full((_GRID_COLUMNS, *fake.shape[1:]), 255, np.uint8)
    return np.concatenate([fake[order[:shown]], white, fake[order[::-1][:shown]]])


def _train(data: ImageSet, classes: int, seed: int) -> Classifier:
    """A classifier that has seen about 30,000 of the images, each at most 20 times."""
    epochs = int(np.clip(round(_IMAGES_SEEN / len(data)), 1, 20))
    return train_classifier(
        data, epochs=epochs, batch=min(128, len(data) // 4), seed=seed, width=WIDTH, classes=classes
    )


def _subset(data: ImageSet, chosen: np.ndarray) -> ImageSet:
    assert data.labels is not None
    return ImageSet(np.ascontiguousarray(data.images[chosen]), data.labels[chosen], data.name, data.license)
