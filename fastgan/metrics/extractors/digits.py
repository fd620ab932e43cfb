"""A small classifier trained on the very data that samples are judged against. For pictures on which no network of
photographs knows what matters; what it knows itself is stated as its accuracy on images held out from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fastgan._util.env import cache_dir
from fastgan._util.files import write_whole
from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.features import Backbone, Extractor, state_hash
from fastgan.metrics.modes import Classifier, accuracy, train_classifier

WIDTH = 16  # 256 features: a class of 500 images has a covariance of full rank
_LARGEST = 60_000  # images to learn from
_SEEN = 30_000  # images seen in training, repetitions included: few epochs, so that seen and unseen ones look alike
_RECIPE = 1  # a higher number has all classifiers trained anew


class _Digits(Backbone):
    """Images [N, C, H, W] in [-1, 1] → features [N, 16 · width], logits; taps before each pooling but the last."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier
        layers = list(classifier.layers)
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        end = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.AdaptiveAvgPool2d))
        self._cuts = [*pools, end]

    def taps(self, x: Tensor) -> list[Tensor]:
        found, start = [], 0
        for cut in self._cuts:
            x = self.classifier.layers[start:cut](x)
            found.append(x)
            start = cut
        return found

    def head(self, last: Tensor) -> tuple[Tensor, Tensor]:
        features = self.classifier.layers[self._cuts[-1] : -1](last)
        return features, self.classifier.layers[-1](features)


def train(data: ImageSet, device: torch.device | None = None, say: Callable[[str], object] = print) -> Extractor:
    """The extractor of labeled images: trained on nine tenths of them (60,000 at most), or taken from the cache.

    Training runs on the CPU and is a function of the data alone. Raises UsageError without labels, with one class, or
    with fewer than 100 images.
    """
    if data.labels is None:
        raise UsageError(
            f"extractor: digits learns from labels, and {data.name} has none; use efficientnet or inception"
        )
    classes = int(data.labels.max()) + 1
    if len(data) < 100 or classes < 2:
        raise UsageError(
            f"extractor: digits needs at least 100 images of 2 classes, got {len(data):,} of {classes} in {data.name}"
        )
    order = np.random.default_rng(0).permutation(len(data))
    held = min(len(data) // 10, 5000)
    learnt = np.sort(order[held : held + _LARGEST])
    seen, unseen = _part(data, learnt), _part(data, np.sort(order[:held]))
    epochs = int(np.clip(round(_SEEN / len(seen)), 1, 4))
    path = cache_dir() / "metrics" / f"digits-{_key(seen, unseen, epochs)}.safetensors"
    network = Classifier(data.channels, classes, WIDTH)
    own = _read(path, network)
    if own is None:
        say(f"training a classifier on {len(seen):,} images of {data.name} ({epochs} epochs)")
        batch = min(128, len(seen) // 4)
        network = train_classifier(seen, epochs=epochs, batch=batch, width=WIDTH, classes=classes)
        own = accuracy(network, unseen)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(dict(network.state_dict()), metadata={"accuracy": repr(own)}))
    network.eval().requires_grad_(False)
    device = device or torch.device("cpu")
    weights = state_hash(network)
    return Extractor(
        protocol=f"digits-{weights[:6]}",
        network=_Digits(network).to(device),
        dim=16 * WIDTH,
        weights=weights,
        about=f"a classifier of {len(seen):,} images of {data.name}, right on {own:.1%} of {len(unseen):,} others",
        channels=data.channels,
        photographs=False,
        own=True,
        accuracy=own,
        shape=(data.channels, *data.resolution),
        batch=500,
        device=device,
    )


def _part(data: ImageSet, chosen: np.ndarray) -> ImageSet:
    assert data.labels is not None
    return ImageSet(np.ascontiguousarray(data.images[chosen]), data.labels[chosen], data.name, data.license)


def _key(seen: ImageSet, unseen: ImageSet, epochs: int) -> str:
    digest = hashlib.sha256(repr((_RECIPE, WIDTH, epochs, seen.images.shape)).encode())
    for part in (seen, unseen):
        digest.update(part.images.tobytes())
        digest.update(part.labels.tobytes() if part.labels is not None else b"")
    return digest.hexdigest()[:32]


def _read(path: Path, network: Classifier) -> float | None:
    """Fill the network from the cache and return its accuracy; None where nothing, or nothing whole, is there."""
    try:
        with safe_open(path, framework="pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
            return float(file.metadata()["accuracy"])
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError):
        return None
