"""Overlapping square tiles of large pictures, so that training reads small images of one size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_SIDE = 480  # pixels, at most, where no side is stated: as in BasicSR's extract_subimages


class Tiles(NamedTuple):
    """side: pixels; None for 480, or the smallest side of a picture where that is less. step: pixels between two tiles;
    None for half a side. multiple: of which both are multiples."""

    side: int | None = None
    step: int | None = None
    multiple: int = 1

    def fitted(self, sizes: Iterable[tuple[int, int]]) -> Tiles:
        """With side and step, for pictures of these sizes, (height, width)."""
        side = self.side or min(_SIDE, *(min(size) for size in sizes))
        side = max(side - side % self.multiple, self.multiple)
        step = self.step or max(side // 2 - side // 2 % self.multiple, self.multiple)
        return Tiles(side, step, self.multiple)

    def count(self, size: tuple[int, int]) -> int:
        """How many tiles a picture of this size, (height, width), has."""
        height, width = size
        return len(self.starts(height)) * len(self.starts(width))

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side; the last one ends where the side does."""
        assert self.side is not None
        assert self.step is not None
        last = length - self.side
        starts = list(range(0, last + 1, self.step))
        return starts if not starts or starts[-1] == last else [*starts, last]

    def cut(self, images: np.ndarray) -> np.ndarray:
        """The tiles of images [..., C, H, W], row by row: [N, C, side, side]."""
        side = self.side
        assert side is not None
        rows, columns = self.starts(images.shape[-2]), self.starts(images.shape[-1])
        tiles = [images[..., y : y + side, x : x + side] for y in rows for x in columns]
        return np.stack(tiles, -4).reshape(-1, images.shape[-3], side, side)
