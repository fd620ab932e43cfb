"""Features of a small classifier that is trained on the reference images themselves. It is for images that differ from
photographs, such as digits; its accuracy on held-out images is part of every result."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fastgan._util import cache
from fastgan._util.env import cache_dir
from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.classifier import Classifier, accuracy, train_classifier
from fastgan.metrics.features import Backbone, Extractor, state_hash

_logger = logging.getLogger(__name__)

WIDTH = 16  # 256 features, so that a class of 500 images has a covariance of full rank
_MAX_IMAGES = 60_000  # to train on
_IMAGES_SEEN = 30_000  # in training, repetitions included: few epochs, so features of training images are as of others
_ACCURACY = "held-out accuracy"  # an entry beside the weights
_RECIPE = 1  # version of the training; a change invalidates cached classifiers


class _Digits(Backbone):
    """Images [N, C, H, W] in [-1, 1] → features [N, 16 · width], logits; activations before each pooling layer."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier
        layers = list(classifier.layers)
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        end = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.AdaptiveAvgPool2d))
        self._pooling = [*pools, end]

    def activations(self, x: Tensor) -> list[Tensor]:
        found, start = [], 0
        for end in self._pooling:
            x = self.classifier.layers[start:end](x)
            found.append(x)
            start = end
        return found

    def head(self, last: Tensor) -> tuple[Tensor, Tensor]:
        features = self.classifier.layers[self._pooling[-1] : -1](last)
        return features, self.classifier.layers[-1](features)


def train(data: ImageSet, device: torch.device | None = None) -> Extractor:
    """An extractor trained on nine tenths of labeled images (at most 60,000), or read from the cache directory.

    Training runs on the CPU with a fixed seed, so the weights depend on the data only. device: where features are
    computed; None means the CPU. Raises UsageError without labels, for one class, and for fewer than 100 images.
    """
    if data.labels is None:
        raise UsageError(
            f"extractor: digits is trained with labels, and {data.name} has none; use efficientnet or inception"
        )
    classes = int(data.labels.max()) + 1
    if len(data) < 100 or classes < 2:
        raise UsageError(
            f"extractor: digits needs at least 100 images of 2 classes, got {len(data):,} of {classes} in {data.name}"
        )
    order = np.random.default_rng(0).permutation(len(data))
    held_out = min(len(data) // 10, 5000)
    training = _subset(data, np.sort(order[held_out : held_out + _MAX_IMAGES]))
    test = _subset(data, np.sort(order[:held_out]))
    epochs = int(np.clip(round(_IMAGES_SEEN / len(training)), 1, 4))
    path = cache_dir() / "metrics" / f"digits-{_key(training, test, epochs)}.entry"
    network = Classifier(data.channels, classes, WIDTH)
    test_accuracy = _read(path, network)
    if test_accuracy is None:
        _logger.info("training a classifier on %s images of %s (%d epochs)", f"{len(training):,}", data.name, epochs)
        batch = min(128, len(training) // 4)
        network = train_classifier(training, epochs=epochs, batch=batch, width=WIDTH, classes=classes)
        test_accuracy = accuracy(network, test)
        content = save({**network.state_dict(), _ACCURACY: torch.tensor(test_accuracy, dtype=torch.float64)})
        try:
            cache.store(path, path.stem, content)
        except OSError as error:
            _logger.warning("the classifier is trained again the next time: %s", error)
    network.eval().requires_grad_(False)
    device = device or torch.device("cpu")
    weights = state_hash(network)
    return Extractor(
        protocol=f"digits-{weights[:6]}",
        network=_Digits(network).to(device),
        dim=16 * WIDTH,
        weights=weights,
        about=f"a classifier trained on {len(training):,} images of {data.name}"
        f" (accuracy {test_accuracy:.1%} on {len(test):,} others)",
        channels=data.channels,
        photographs=False,
        own=True,
        accuracy=test_accuracy,
        shape=(data.channels, *data.resolution),
        batch=500,
        device=device,
    )


def _subset(data: ImageSet, chosen: np.ndarray) -> ImageSet:
    assert data.labels is not None
    return ImageSet(np.ascontiguousarray(data.images[chosen]), data.labels[chosen], data.name, data.license)


def _key(training: ImageSet, test: ImageSet, epochs: int) -> str:
    """Hash of the data and of the training's parameters."""
    digest = hashlib.sha256(repr((_RECIPE, WIDTH, epochs, training.images.shape)).encode())
    for part in (training, test):
        digest.update(part.images.tobytes())
        digest.update(part.labels.tobytes() if part.labels is not None else b"")
    return digest.hexdigest()[:32]


def _read(path: Path, network: Classifier) -> float | None:
    """Load the network from the cache and return its accuracy; None if the file is missing or damaged."""
    try:
        state = load(cache.load(path, path.stem))
        found = float(state.pop(_ACCURACY))
        network.load_state_dict(state)
        return found
    except (OSError, ValueError, SafetensorError, RuntimeError, KeyError):
        return None
