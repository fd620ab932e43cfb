"""Samples that repeat each other, and samples that repeat the training set: by nearest neighbors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.metrics.distances import nearest

#: A neighbor counts as the same picture when it is nearer than this share of the median distance of real neighbors.
SAME = 0.2
#: The side to which pictures are averaged down before their pixels are compared.
THUMBNAIL = 16
_CHUNK = 8192


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


def repeats(real: Tensor, fake: Tensor, pool: Iterable[Tensor] | None = None) -> Repeats:
    """Of points [N, D] and [M, D]: features, or `thumbnails`. Neighbors nearer than SAME of the median distance of
    real nearest neighbors are the same picture.

    pool: blocks of all the points among which copies are looked for, where they are more than `real`.
    Raises UsageError for fewer than 2 points on either side.
    """
    for name, part in (("real", real), ("fake", fake)):
        if len(part) < 2:
            raise UsageError(f"{name}: expected at least 2 samples to have neighbors, got {len(part)}")
    among_real = nearest(real, real)[0].sqrt()
    among_fake = nearest(fake, fake)[0].sqrt()
    limit = SAME * float(among_real.median())
    distance, which = _nearest_in(fake, [real] if pool is None else pool)
    distance = distance.sqrt()
    copied = (distance <= limit).nonzero().flatten()
    copied = copied[distance[copied].argsort()]
    return Repeats(
        doubles=float((among_fake <= limit).double().mean()),
        copied=len(copied) / len(fake),
        real=float((among_real <= limit).double().mean()),
        copies=[(int(i), int(which[i])) for i in copied],
    )


def _nearest_in(x: Tensor, pool: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """`nearest` in points that come a block at a time."""
    best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    which = torch.zeros(len(x), dtype=torch.long, device=x.device)
    first = 0
    for block in pool:
        distance, index = nearest(x, block.to(x.device))
        nearer = distance < best
        best = torch.where(nearer, distance, best)
        which = torch.where(nearer, index + first, which)
        first += len(block)
    return best, which


def thumbnails(images: np.ndarray) -> Tensor:
    """uint8 images [N, C, H, W] as points float32 [N, D] of pixels, sides above THUMBNAIL averaged down to it."""
    return torch.cat(list(thumbnail_blocks(images)))


def thumbnail_blocks(images: np.ndarray) -> Iterator[Tensor]:
    """`thumbnails`, some thousand at a time."""
    height, width = (min(side, THUMBNAIL) for side in images.shape[2:])
    step = max(1, min(_CHUNK, (1 << 26) // images[0].size))
    for start in range(0, len(images), step):
        part = torch.from_numpy(np.array(images[start : start + step])).float()
        yield torch.nn.functional.adaptive_avg_pool2d(part, (height, width)).flatten(1)
