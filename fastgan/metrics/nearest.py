"""Samples that repeat each other, and samples that repeat the training set: by nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.metrics.distances import nearest

#: A neighbour counts as the same picture when it is nearer than this share of the median distance of real neighbours.
SAME = 0.2
_THUMBNAIL = 32


@dataclass(frozen=True)
class Repeats:
    """Shares of samples that have a (near) double: among the other samples, in the real images; and, by the same
    measure, of real images among each other, which is what chance and the data themselves bring.

    copies: (sample, real image) for samples that repeat a real image, the nearest first.
    """

    doubles: float
    copied: float
    real: float
    copies: list[tuple[int, int]]


def repeats(real: Tensor, fake: Tensor) -> Repeats:
    """Of points [N, D] and [M, D]: features, or `thumbnails`. Neighbours nearer than SAME of the median distance of real
    nearest neighbours are the same picture. UsageError for fewer than 2 on either side."""
    for name, part in (("real", real), ("fake", fake)):
        if len(part) < 2:
            raise UsageError(f"{name}: expected at least 2 samples to have neighbours, got {len(part)}")
    among_real = nearest(real, real)[0].sqrt()
    limit = SAME * float(among_real.median())
    among_fake = nearest(fake, fake)[0].sqrt()
    to_real, which = nearest(fake, real)
    copied = (to_real.sqrt() <= limit).nonzero().flatten()
    copied = copied[to_real[copied].argsort()]
    return Repeats(
        doubles=float((among_fake <= limit).double().mean()),
        copied=len(copied) / len(fake),
        real=float((among_real <= limit).double().mean()),
        copies=[(int(i), int(which[i])) for i in copied],
    )


def thumbnails(images: np.ndarray) -> Tensor:
    """uint8 images [N, C, H, W] as points float32 [N, D] of pixels, sides above 32 averaged down to 32."""
    found = []
    for start in range(0, len(images), 1024):
        part = torch.from_numpy(np.array(images[start : start + 1024])).float()
        size = [min(side, _THUMBNAIL) for side in part.shape[2:]]
        if size != list(part.shape[2:]):
            part = torch.nn.functional.adaptive_avg_pool2d(part, size)
        found.append(part.flatten(1))
    return torch.cat(found)
