"""A small convolutional classifier, trained here on labeled images: for features, for classifier-based metrics, and to
count the classes of generated images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.data.imageset import ImageSet
from fastgan.data.stream import normalize
from fastgan.errors import UsageError


class Classifier(nn.Module):
    """Images [N, C, H, W] in [-1, 1] → class logits [N, classes]: three convolutions and a linear layer."""

    def __init__(self, channels: int, classes: int, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(channels, width), nn.MaxPool2d(2),
            *_convolution(width, 2 * width), nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(16 * width, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _convolution(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


@dataclass(frozen=True)
class ClassDistribution:
    """How a classifier classifies a set of images.

    share: fraction of the images in each class, float64 [classes]. confidence: mean probability of the predicted class.
    accuracy: of the classifier itself, on labeled images that it was not trained on.
    """

    share: np.ndarray
    confidence: float
    accuracy: float

    def describe(self, names: tuple[str, ...] | None = None) -> str:
        """Two lines of text. names: of the classes; their numbers if None."""
        names = names or tuple(map(str, range(len(self.share))))
        shares = "  ".join(f"{name} {share:.1%}" for name, share in zip(names, self.share, strict=True))
        return f"mean confidence {self.confidence:.3f} (classifier accuracy {self.accuracy:.1%})\nclasses: {shares}"


def train_classifier(
    train: ImageSet, *, epochs: int = 1, batch: int = 128, seed: int = 0, width: int = 32, classes: int | None = None
) -> Classifier:
    """A classifier of labeled images, in eval mode, trained on the CPU with Adam and a one-cycle schedule.

    classes: number of classes; None means the highest label plus one. PyTorch's global random numbers are not changed.
    Raises UsageError without labels.
    """
    if train.labels is None:
        raise UsageError(f"train: expected labeled images, {train.name} has no labels")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(train.channels, classes or int(train.labels.max()) + 1, width)
        images, labels = torch.from_numpy(np.array(train.images)), torch.from_numpy(np.array(train.labels))
        steps = epochs * (len(images) // batch)
        optimizer = torch.optim.Adam(network.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        network.train()
        for _ in range(epochs):
            order = torch.randperm(len(images))[: len(images) // batch * batch]
            for chosen in order.split(batch):
                optimizer.zero_grad()
                F.cross_entropy(network(normalize(images[chosen])), labels[chosen]).backward()
                optimizer.step()
                schedule.step()
    return network.eval()


@torch.no_grad()
def probabilities(network: Classifier, images: np.ndarray, batch: int = 500) -> np.ndarray:
    """Class probabilities float32 [N, classes] of uint8 images [N, C, H, W]."""
    parts = torch.from_numpy(np.array(images)).split(batch)
    return torch.cat([network(normalize(part)).softmax(1) for part in parts]).numpy()


def accuracy(network: Classifier, held_out: ImageSet) -> float:
    """Fraction of labeled images that the classifier classifies correctly. Raises UsageError without labels."""
    if held_out.labels is None:
        raise UsageError(f"held_out: expected labeled images, {held_out.name} has no labels")
    return float((probabilities(network, held_out.images).argmax(1) == held_out.labels).mean())


def class_distribution(network: Classifier, images: np.ndarray, classifier_accuracy: float) -> ClassDistribution:
    """The predicted classes of uint8 images [N, C, H, W], such as samples of a generator: are all classes there?"""
    predicted = probabilities(network, images)
    share = np.bincount(predicted.argmax(1), minlength=predicted.shape[1]) / len(predicted)
    return ClassDistribution(share, float(predicted.max(1).mean()), classifier_accuracy)
