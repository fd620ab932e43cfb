"""Feature extractors: images to features and class logits, and the cache of the features of real images."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastgan._util import cache
from fastgan._util.env import cache_dir
from fastgan.errors import DataError, UsageError
from fastgan.metrics.resize import resize

_logger = logging.getLogger(__name__)


class Backbone(nn.Module):
    """A network in two parts: images [N, C, H, W] → activations at several depths → features and class logits."""

    def activations(self, x: Tensor) -> list[Tensor]:
        """Activations [N, C, H, W] at increasing depths; the last one is the input of `head`."""
        raise NotImplementedError

    def head(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, D] and class logits [N, classes] from the last activation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.activations(x)[-1])


@dataclass(frozen=True)
class Features:
    """Output of an extractor for N images, on the CPU. features: float32 [N, D]; logits: float32 [N, classes]."""

    features: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network, and how images are preprocessed for it.

    protocol: such as inception_clean; it is part of the name of every metric computed with this extractor. dim: number
    of features. weights: SHA-256 of the network's state. about: description for the user. size: side to which images
    are resized, None for images that must have the size `shape` [C, H, W] already. filter: of the resize, see
    resize.py. channels: of the network's input. shift, scale: pixels 0..255 become (x - shift) / scale. photographs:
    whether it was trained on photographs (ImageNet), so that its features may be unsuitable for other images. own:
    whether its classes are those of the evaluated data. accuracy: on held-out images, None if it was not measured.
    batch: images at a time.
    """

    protocol: str
    network: Backbone
    dim: int
    weights: str
    about: str
    size: int | None = None
    filter: str = "clean"
    channels: int = 3
    shift: float = 127.5
    scale: float = 127.5
    photographs: bool = True
    own: bool = False
    accuracy: float | None = None
    shape: tuple[int, int, int] | None = None
    batch: int = 64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def key(self) -> str:
        """SHA-256 of everything that the features of an image depend on."""
        facts = (self.protocol, self.weights, self.size, self.filter, self.channels, self.shift, self.scale, self.dim)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def prepare(self, images: np.ndarray) -> Tensor:
        """uint8 [N, C, H, W] → the network's input, float32 on its device. Gray images are repeated to 3 channels."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UsageError(f"images: expected uint8 [N, 1 or 3, H, W], got {images.dtype} {list(images.shape)}")
        if self.shape is not None and images.shape[1:] != self.shape:
            raise UsageError(
                f"images: {self.protocol} was trained on images {list(self.shape)}, got {list(images.shape[1:])}"
            )
        x = torch.from_numpy(np.array(images)).to(self.device)
        x = x.float() if self.size is None else resize(x, self.size, self.filter)
        if x.shape[1] != self.channels:
            x = x.expand(-1, self.channels, -1, -1)
        return x.sub(self.shift).div_(self.scale).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> Features:
        """Features and logits of uint8 images [N, C, H, W], N > 0, in batches.

        Raises UsageError for images of another dtype or shape, DataError if features are NaN or infinite.
        """
        parts = [self.network(self.prepare(part)) for part in _batches(images, self.batch)]
        if not parts:
            raise UsageError("images: expected at least one, got none")
        found = Features(*(torch.cat([part[i].float().cpu() for part in parts]) for i in (0, 1)))
        checked(found.features, f"the features of {self.protocol}")
        return found

    @torch.no_grad()
    def activations(self, images: np.ndarray) -> Iterator[list[Tensor]]:
        """Activations [n, C, H, W] of uint8 images [N, C, H, W] at several depths, for one batch after the other."""
        for part in _batches(images, self.batch):
            yield self.network.activations(self.prepare(part))


def _batches(images: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    return (images[start : start + batch] for start in range(0, len(images), batch))


def checked(features: Tensor | np.ndarray, name: str = "features", minimum: int = 1) -> Tensor:
    """Features as a tensor [N, D]. UsageError for another shape or N < minimum, DataError for NaN or infinity."""
    x = torch.as_tensor(features)
    if x.ndim != 2 or not x.is_floating_point():
        raise UsageError(f"{name}: expected floating point [N, D], got {x.dtype} {list(x.shape)}")
    if len(x) < minimum:
        raise UsageError(f"{name}: expected at least {minimum} samples, got {len(x)}")
    finite = torch.isfinite(x).all(1)
    if not finite.all():
        bad = int((~finite).sum())
        first = int((~finite).nonzero()[0])
        raise DataError(f"{name}: {bad} of {len(x)} samples are NaN or infinite (the first is number {first})")
    return x


def checked_pair(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, minimum: int = 2) -> tuple[Tensor, Tensor]:
    """`checked` features [N, D] and [M, D]; UsageError if their numbers of features differ."""
    x, y = checked(real, "real", minimum), checked(fake, "fake", minimum)
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"fake: expected features [N, {x.shape[1]}] as of the real ones, got {list(y.shape)}")
    return x, y


def state_hash(network: nn.Module) -> str:
    """SHA-256 of a network's state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def reference_features(extractor: Extractor, images: np.ndarray) -> Features:
    """Features of real images, uint8 [N, C, H, W]: read from the cache directory, or computed and written to it.

    The key of the cache covers every pixel, the order and number of images, the weights and the preprocessing. A
    damaged cache file is reported and computed again.
    """
    path = features_path(extractor, images)
    try:
        return _read_features(path, extractor, len(images))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, DataError) as error:
        _logger.warning("the features in %s are damaged (%s): computing them again", path, error)
    found = extractor(images)
    content = io.BytesIO()
    np.savez(content, features=found.features.numpy(), logits=found.logits.numpy())
    try:
        cache.store(path, path.stem, content.getvalue())
    except OSError as error:
        _logger.warning("the features are computed again the next time: %s", error)
    return found


def features_path(extractor: Extractor, images: np.ndarray) -> Path:
    """The cache file of the features of these images. It may be deleted at any time."""
    digest = hashlib.sha256(extractor.key.encode())
    digest.update(repr(images.shape).encode())
    for start in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[start : start + 1024]).data)
    return cache_dir() / "metrics" / f"features-{digest.hexdigest()[:32]}.entry"


def _read_features(path: Path, extractor: Extractor, count: int) -> Features:
    with np.load(io.BytesIO(cache.load(path, path.stem)), allow_pickle=False) as file:
        features, logits = (torch.from_numpy(file[name]) for name in ("features", "logits"))
    if features.shape != (count, extractor.dim) or len(logits) != count:
        raise ValueError(f"expected [{count}, {extractor.dim}], got {list(features.shape)}")
    checked(features)
    return Features(features, logits)
