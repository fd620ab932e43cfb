"""Exact nearest neighbors of features or pixels, one block of distances at a time; duplicated and copied samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError

#: Bytes of a block of distances. Besides it one block of rows and one of columns are held in float64.
BLOCK = 1 << 26
_COLUMNS = 4096
#: Two images are duplicates if their distance is at most this fraction of the median nearest-neighbor distance of real
#: images.
DUPLICATE = 0.2
#: Side in pixels to which images are downsampled before their pixels are compared.
THUMBNAIL = 16
_IMAGES = 8192  # in a block of thumbnails


def squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """‖x_i − y_j‖² for x [N, D] and y [M, D], in blocks of rows: (rows, float64 [rows, M]).

    Computed as ‖x‖² + ‖y‖² − 2 x·y in float64 after subtracting y's mean. For float32 features, near duplicates
    included, the error is smaller than their own rounding; distances below about 1e-7 of the features' spread may come
    out as 0.
    """
    center = y.mean(0, dtype=torch.float64)
    rows = max(1, min(len(x), BLOCK // (8 * max(len(y), _COLUMNS))))
    for start in range(0, len(x), rows):
        a = x[start : start + rows].double() - center
        block = torch.empty(len(a), len(y), dtype=torch.float64, device=x.device)
        for column in range(0, len(y), _COLUMNS):
            b = y[column : column + _COLUMNS].double() - center
            part = block[:, column : column + _COLUMNS]
            torch.addmm(b.square().sum(1)[None].expand(len(a), -1), a, b.T, alpha=-2, out=part)
        block.add_(a.square().sum(1)[:, None]).clamp_(min=0)
        yield slice(start, start + len(a)), block


def neighbor_radii(x: Tensor, *ks: int) -> Tensor:
    """Squared distance of each x_i in x [N, D] to its k-th nearest other point, for each k of ks: float64 [len(ks), N].

    Raises UsageError unless 1 <= k < N.
    """
    if not 1 <= min(ks) <= max(ks) < len(x):
        raise UsageError(f"k: expected from 1 to {len(x) - 1} neighbors for {len(x)} samples, got {ks}")
    radii = torch.empty(len(ks), len(x), dtype=torch.float64, device=x.device)
    for rows, block in squared_distances(x, x):
        _self_distances(block, rows).fill_(torch.inf)
        # topk, because kthvalue takes ten times as long on the CPU
        radii[:, rows] = block.topk(max(ks), dim=1, largest=False).values[:, [k - 1 for k in ks]].T
    return radii


def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance float64 [N] to, and index int64 [N] of, the nearest y_j of each x_i, for x [N, D] and y [M, D].

    If y is the same tensor object as x: of the nearest other point. Raises UsageError if there is none.
    """
    if x is y and len(x) < 2:
        raise UsageError(f"x: expected at least 2 samples to have neighbors, got {len(x)}")
    distance = torch.empty(len(x), dtype=torch.float64, device=x.device)
    index = torch.empty(len(x), dtype=torch.long, device=x.device)
    for rows, block in squared_distances(x, y):
        if x is y:
            _self_distances(block, rows).fill_(torch.inf)
        distance[rows], index[rows] = block.min(1)
    return distance, index


def _self_distances(block: Tensor, rows: slice) -> Tensor:
    """The entries of a block of rows that are distances of points to themselves."""
    return block[:, rows].diagonal()


@dataclass(frozen=True)
class Duplicates:
    """Fractions of images that have a (near) duplicate.

    among_fake: samples with one among the other samples. copied: samples with one among the real images. among_real:
    real images with one among the other real images, for comparison. copies: (sample, real image) for the copied
    samples, nearest first.
    """

    among_fake: float
    copied: float
    among_real: float
    copies: list[tuple[int, int]]


def find_duplicates(real: Tensor, fake: Tensor, pool: Iterable[Tensor] | None = None) -> Duplicates:
    """Duplicates among points [N, D] and [M, D], which are features or `thumbnails`.

    Points are duplicates if their distance is at most DUPLICATE times the median distance of real nearest neighbors.
    pool: blocks of all points that samples may be copies of; None means `real`. Raises UsageError for fewer than 2
    points of either.
    """
    for name, part in (("real", real), ("fake", fake)):
        if len(part) < 2:
            raise UsageError(f"{name}: expected at least 2 samples to have neighbors, got {len(part)}")
    among_real = nearest(real, real)[0].sqrt()
    among_fake = nearest(fake, fake)[0].sqrt()
    limit = DUPLICATE * float(among_real.median())
    distance, index = _nearest_of_blocks(fake, [real] if pool is None else pool)
    distance = distance.sqrt()
    copied = (distance <= limit).nonzero().flatten()
    copied = copied[distance[copied].argsort()]
    return Duplicates(
        among_fake=float((among_fake <= limit).double().mean()),
        copied=len(copied) / len(fake),
        among_real=float((among_real <= limit).double().mean()),
        copies=[(int(i), int(index[i])) for i in copied],
    )


def _nearest_of_blocks(x: Tensor, blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """`nearest` for points that come in blocks."""
    best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    best_index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    first = 0
    for block in blocks:
        distance, index = nearest(x, block.to(x.device))
        nearer = distance < best
        best = torch.where(nearer, distance, best)
        best_index = torch.where(nearer, index + first, best_index)
        first += len(block)
    return best, best_index


def thumbnails(images: np.ndarray) -> Tensor:
    """uint8 images [N, C, H, W] as points float32 [N, D]: pixels, averaged down to THUMBNAIL where sides are longer."""
    return torch.cat(list(thumbnail_blocks(images)))


def thumbnail_blocks(images: np.ndarray) -> Iterator[Tensor]:
    """`thumbnails` of up to 8192 images at a time."""
    height, width = (min(side, THUMBNAIL) for side in images.shape[2:])
    step = max(1, min(_IMAGES, (1 << 26) // images[0].size))
    for start in range(0, len(images), step):
        part = torch.from_numpy(np.array(images[start : start + step])).float()
        yield torch.nn.functional.adaptive_avg_pool2d(part, (height, width)).flatten(1)
