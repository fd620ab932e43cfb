"""`ImageSet`: images of one size, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastgan._util.output import printable
from fastgan.errors import DataError, UsageError

NOT_STATED = "not stated"  # the license of files that come without one
#: Labels are below it. Networks, counts and one-hot vectors are as large as the largest label.
MAX_CLASSES = 1_000_000
_CHUNK = 4096  # images read at a time: `describe` must not load a memory-mapped set into memory
_CLASSES_SHOWN = 12


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size, with their labels where there are any.

    images: uint8 [N, C, H, W], C-contiguous, C 1 (gray) or 3 (RGB), values 0..255; may be a read-only memory map.
    labels: int64 [N], from 0, or None. class_names: the name of each label, or None.
    license: as stated by the source. skipped: number of images of the source that cannot be read and are left out.
    pack: the folder of the pack that the arrays are mapped from, or None. why_unlabeled: why there are no labels, where
    it is not plain, or "". pictures: for tiles of larger pictures the number of the picture of each, int64 [N].
    Raises UsageError where an argument does not fit.
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    license: str
    class_names: tuple[str, ...] | None = None
    skipped: int = 0
    pack: Path | None = None
    why_unlabeled: str = ""
    pictures: np.ndarray | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, np.ndarray):
            raise UsageError(f"images: expected a numpy array, got {type(images).__name__}")
        if images.dtype != np.uint8 or images.ndim != 4:
            raise UsageError(f"images: expected uint8 [N, C, H, W], got {images.dtype} {list(images.shape)}")
        if images.shape[1] not in (1, 3):
            raise UsageError(f"images: expected 1 or 3 channels, got {images.shape[1]} in {list(images.shape)}")
        if 0 in images.shape:
            raise UsageError(f"images: expected at least one image of at least one pixel, got {list(images.shape)}")
        if not images.flags.c_contiguous:
            raise UsageError("images: expected a C-contiguous array, got a strided view; use np.ascontiguousarray")
        if labels is None:
            if self.class_names is not None:
                raise UsageError("class_names: expected None where labels is None, got names without labels")
            return
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.shape != (len(images),):
            came = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, np.ndarray) else type(labels).__name__
            raise UsageError(f"labels: expected int64 [{len(images)}], one for each image, got {came}")
        if labels.min() < 0:
            raise UsageError(f"labels: expected numbers from 0, got {labels.min()}")
        if labels.max() >= MAX_CLASSES:
            raise UsageError(f"labels: expected numbers below {MAX_CLASSES:,}, got {labels.max()}")
        if self.class_names is not None and labels.max() >= len(self.class_names):
            raise UsageError(
                f"class_names: expected a name for each label up to {labels.max()}, got {len(self.class_names)} names"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def resolution(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def channels(self) -> int:
        """1 for gray, 3 for RGB."""
        return self.images.shape[1]

    @property
    def num_classes(self) -> int:
        """The number of class names, else the largest label + 1; 0 without labels."""
        if self.labels is None:
            return 0
        return len(self.class_names) if self.class_names is not None else int(self.labels.max()) + 1

    def with_classes(self, names: Sequence[str]) -> ImageSet:
        """The same images with classes numbered in the order of `names`. Raises DataError where they are others."""
        if self.labels is None or self.class_names is None or tuple(names) == self.class_names:
            return self
        if sorted(names) != sorted(self.class_names):
            others = sorted({*names} ^ {*self.class_names})
            raise DataError(
                f"{self.name} has other classes than the {len(names)} named before: {', '.join(map(repr, others[:5]))}"
                " of one are not in the other"
            )
        number = {name: i for i, name in enumerate(names)}
        order = np.array([number[name] for name in self.class_names], np.int64)
        return replace(self, labels=order[self.labels], class_names=tuple(names))

    def describe(self) -> str:
        """A summary of several lines: count, size, channels, values, classes, license. Reads every pixel once."""
        low, high, total = 255, 0, 0
        for start in range(0, len(self), _CHUNK):
            chunk = self.images[start : start + _CHUNK]
            low, high = min(low, int(chunk.min())), max(high, int(chunk.max()))
            total += int(chunk.sum(dtype=np.uint64))
        h, w = self.resolution
        skipped = [f"skipped  {self.skipped:,} that cannot be read"] if self.skipped else []
        return "\n".join(
            [
                f"{self.name}: {len(self):,} image{'s' if len(self) > 1 else ''}",
                *skipped,
                f"size     {h} × {w} pixels (height × width)",
                f"channels {self.channels} ({'gray' if self.channels == 1 else 'RGB'})",
                f"values   {low}..{high}, mean {total / self.images.size:.1f}",
                f"classes  {self._describe_classes()}",
                f"license  {self.license}",
            ]
        )

    def _describe_classes(self) -> str:
        if self.labels is None:
            return f"no labels{f': {self.why_unlabeled}' * bool(self.why_unlabeled)}"
        counts = np.bincount(self.labels, minlength=self.num_classes)
        names = self.class_names or tuple(str(i) for i in range(len(counts)))
        listed = ", ".join(
            f"{printable(name)} {count:,}" for name, count in list(zip(names, counts, strict=True))[:_CLASSES_SHOWN]
        )
        more = f", and {len(counts) - _CLASSES_SHOWN} more" if len(counts) > _CLASSES_SHOWN else ""
        return f"{len(counts)}: {listed}{more}"
