"""Accepts or rejects generated images of a class by a classifier that is trained on the real ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastgan.augmentation.classifiers import accuracy, features, fit
from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.neighbors import nearest, squared_distances

#: Why an image is rejected, in the order in which it is asked.
REASONS = ("other class", "far", "copy", "repeated")
#: A fifth of a class is held out from the classifier. With fewer held-out images a class has no distance of its own.
_HELD_OUT, _FEW = 5, 5


@dataclass(frozen=True)
class Thresholds:
    """confidence: least probability of the class that was asked for. near, far: limits of the distance to the nearest
    real image of the class, in multiples of that distance of real images that the classifier was not trained on.

    Raises UsageError for arguments out of range.
    """

    confidence: float = 0.9
    near: float = 0.2
    far: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.confidence < 1:
            raise UsageError(f"confidence: expected a probability from 0 to below 1, got {self.confidence}")
        if not self.near >= 0:
            raise UsageError(f"near: expected a number >= 0, got {self.near}")
        if not self.far > self.near:
            raise UsageError(f"far: expected a number above near, which is {self.near}, got {self.far}")


class Filter:
    """Judges images by a classifier trained on four fifths of the real images, and by distances in its features.

    accuracy: of the classifier on the other fifth, the mean over classes. held_out: how many images that is. distances:
    float64 [classes], the median distance of held-out images to the nearest image of their class that the classifier
    was trained on; of a class with fewer than 5 held-out images that of all classes. Raises UsageError where no class
    has two images.
    """

    def __init__(
        self,
        real: ImageSet,
        thresholds: Thresholds | None = None,
        *,
        steps: int = 600,
        seed: int = 0,
        device: torch.device | None = None,
    ):
        assert real.labels is not None
        self.thresholds = thresholds or Thresholds()
        classes = real.num_classes
        apart = _held_out(real.labels, classes, seed)
        if not apart.any():
            raise UsageError(f"data: expected at least 2 images of a class, {real.name} has one of each")
        self.network = fit(real.images[~apart], real.labels[~apart], classes, steps=steps, seed=seed, device=device)
        self.held_out = int(apart.sum())
        self.accuracy = accuracy(self.network, real.images[apart], real.labels[apart])
        vectors, _ = features(self.network, real.images)
        self._real = [vectors[torch.from_numpy(real.labels == label)] for label in range(classes)]
        found = []
        for label in range(classes):
            own = real.labels == label
            others, seen = (vectors[torch.from_numpy(own & part)] for part in (apart, ~apart))
            found.append(nearest(others, seen)[0].sqrt() if len(others) else others.new_zeros(0, dtype=torch.float64))
        median = torch.cat(found).median()
        self.distances = torch.stack([own.median() if len(own) >= _FEW else median for own in found]).cpu().numpy()

    def reasons(self, images: np.ndarray, label: int, accepted: Tensor | None = None) -> tuple[np.ndarray, Tensor]:
        """For images uint8 [N, C, H, W] made for a class: "" or one of REASONS each, [N], and their features [N, F].

        accepted: features of earlier images of the class, which must not be repeated.
        """
        vectors, probabilities = features(self.network, images)
        unit, limits = float(self.distances[label]), self.thresholds
        distance = (nearest(vectors, self._real[label])[0].sqrt() / unit).cpu().numpy()
        reasons = np.full(len(images), "", object)
        reasons[distance <= limits.near] = "copy"
        reasons[distance > limits.far] = "far"
        reasons[(probabilities[:, label] < limits.confidence).cpu().numpy()] = "other class"
        known = vectors if accepted is None else torch.cat([accepted, vectors])
        earlier = len(known) - len(vectors)
        for rows, block in squared_distances(vectors, known):
            close = (block <= (limits.near * unit) ** 2).cpu().numpy()
            for i, row in zip(range(rows.start, rows.stop), close, strict=True):
                among = np.concatenate([np.ones(earlier, bool), reasons[:i] == ""])
                if reasons[i] == "" and (row[: earlier + i] & among).any():
                    reasons[i] = "repeated"
        return reasons, vectors


def _held_out(labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Which images are held out, bool [N]: a fifth of each class, at least one where there are two."""
    apart = np.zeros(len(labels), bool)
    for label in range(classes):
        own = np.random.default_rng((seed, label)).permutation(np.flatnonzero(labels == label))
        apart[own[: max(len(own) // _HELD_OUT, int(len(own) > 1))]] = True
    return apart
