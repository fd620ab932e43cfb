"""Images to features: what an extractor is, and what it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.errors import DataError, UsageError
from fastgan.metrics.resize import resize


class Backbone(nn.Module):
    """A network in two parts: taps(x) → activations [N, C, H, W], ever deeper; head(the last) → features, logits."""

    def taps(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def head(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """features [N, D] and class logits [N, classes]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.taps(x)[-1])


@dataclass(frozen=True)
class Features:
    """What an extractor sees in N images. features: float32 [N, D]; logits: float32 [N, classes]. On the CPU."""

    features: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network with the protocol by which it looks at images: what stands in the name of every figure made with it.

    protocol: the part of the name, `inception_clean`. size: the side to which images are resized, None for images that
    must have `shape` [C, H, W] as they are. filter: see resize.py. shift, scale: pixels 0..255 → (x - shift) / scale.
    weights: SHA-256 of them. photographs: whether it has learnt on photographs (ImageNet), so that other pictures are
    foreign to it. classes: the names or number of what its logits tell apart; own: whether these are the classes of
    the data that is judged. accuracy: its own, on images held out from it, where it was measured.
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
        """Changes with everything on which the features of an image depend."""
        facts = (self.protocol, self.weights, self.size, self.filter, self.channels, self.shift, self.scale, self.dim)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def prepare(self, images: np.ndarray) -> Tensor:
        """uint8 [N, C, H, W] → the network's input. Gray images are given to a network of color three times."""
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
        """Features of uint8 images [N, C, H, W], N > 0, in batches.

        Raises UsageError for images of another kind, DataError where features are not finite.
        """
        parts = [self.network(self.prepare(part)) for part in _batches(images, self.batch)]
        if not parts:
            raise UsageError("images: expected at least one, got none")
        found = Features(*(torch.cat([part[i].float().cpu() for part in parts]) for i in (0, 1)))
        checked(found.features, f"the features of {self.protocol}")
        return found

    @torch.no_grad()
    def taps(self, images: np.ndarray) -> Iterator[list[Tensor]]:
        """Activations of uint8 images [N, C, H, W], batch by batch."""
        for part in _batches(images, self.batch):
            yield self.network.taps(self.prepare(part))


def _batches(images: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    return (images[start : start + batch] for start in range(0, len(images), batch))


def checked(features: Tensor | np.ndarray, what: str = "features", least: int = 1) -> Tensor:
    """Features as a tensor [N, D]. UsageError for another shape or fewer than `least`, DataError where not finite."""
    x = torch.as_tensor(features)
    if x.ndim != 2 or not x.is_floating_point():
        raise UsageError(f"{what}: expected floating point [N, D], got {x.dtype} {list(x.shape)}")
    if len(x) < least:
        raise UsageError(f"{what}: expected at least {least} samples, got {len(x)}")
    finite = torch.isfinite(x).all(1)
    if not finite.all():
        bad = int((~finite).sum())
        first = int((~finite).nonzero()[0])
        raise DataError(f"{what}: {bad} of {len(x)} samples are NaN or infinite (the first is number {first})")
    return x


def both(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, least: int = 2) -> tuple[Tensor, Tensor]:
    """Two checked sets of the same number of features."""
    x, y = checked(real, "real", least), checked(fake, "fake", least)
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"fake: expected features [N, {x.shape[1]}] as of the real ones, got {list(y.shape)}")
    return x, y


def state_hash(network: nn.Module) -> str:
    """SHA-256 of a network's state."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()
