"""The user's images as calibration inputs. numpy and Pillow only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastgan.errors import UsageError
from fastgan.runtime.spec import Spec

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
#: Larger images are cropped to their center of SIDE pixels a side. COUNT images are taken, evenly spaced by name.
SIDE, COUNT = 256, 64


class CalibrationImages:
    """The images at `path` (a file or a folder), as float32 [1, C, H, W] in spec.range; can be iterated repeatedly.

    Raises UsageError where there are none, and while iterating for an image that is damaged or too small.
    """

    def __init__(self, path: Path, spec: Spec):
        self._spec = spec
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        else:
            found = [path]
        if not found or not found[0].is_file():
            what = f"there is none ({', '.join(SUFFIXES)}) in it" if path.is_dir() else "there is no such file"
            raise UsageError(f"calibrate: expected an image or a folder of images, got {path}: {what}")
        step = max(1, len(found) // COUNT)
        self.files = found[::step][:COUNT]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[np.ndarray]:
        for file in self.files:
            yield self._read(file)

    def _read(self, file: Path) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("L" if self._spec.channels == 1 else "RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UsageError(f"calibrate: {file} cannot be read: {error}") from error
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        multiple, (low, high) = self._spec.multiple, self._spec.range
        sides = [min(side, max(SIDE, multiple)) // multiple * multiple for side in pixels.shape[:2]]
        if 0 in sides:
            height, width = pixels.shape[:2]
            raise UsageError(f"calibrate: {file} is {width}×{height}; the network takes multiples of {multiple}")
        top, left = ((side - kept) // 2 for side, kept in zip(pixels.shape[:2], sides, strict=True))
        pixels = pixels[top : top + sides[0], left : left + sides[1]]
        return (low + (high - low) / 255 * pixels.transpose(2, 0, 1)[None].astype(np.float32)).astype(np.float32)
