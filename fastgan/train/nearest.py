"""The training image most like each generated one: whether a generator invents or repeats."""

from __future__ import annotations

import numpy as np

from fastgan.errors import UsageError
from fastgan.metrics.neighbors import nearest, thumbnails

#: Training images that are looked at, and the bytes that they may take: the search has to stay a small part of a run.
AMONG, BYTES = 4096, 1 << 28


class Neighbors:
    """Looks among images uint8 [M, C, H, W], or an even choice of them where they are many, by pixels of thumbnails.

    Raises UsageError for images of another kind.
    """

    def __init__(self, images: np.ndarray):
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            came = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
            raise UsageError(f"reference: expected images as uint8 [M, C, H, W] with M > 0, got {came}")
        self._images = images
        count = max(1, min(len(images), AMONG, BYTES // images[0].nbytes))
        self._chosen = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
        self._points = thumbnails(images[self._chosen])

    @property
    def about(self) -> dict[str, int]:
        """How many images are looked at, of how many."""
        return {"among": len(self._chosen), "of": len(self._images)}

    @property
    def shape(self) -> list[int]:
        """[C, H, W] of the images."""
        return list(self._images.shape[1:])

    def of(self, images: np.ndarray) -> np.ndarray:
        """The image most like each of `images`, uint8 [N, C, H, W]."""
        _, which = nearest(thumbnails(images), self._points)
        return self._images[self._chosen[which.numpy()]]
