"""Images as arrays, and grids of them as PNG files. Uses numpy and Pillow only: `fastgan sample MODEL.onnx` runs
without torch."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fastgan._util.files import write_whole
from fastgan.errors import UsageError


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Turn network output into pixels: float in [-1, 1] → uint8 in 0..255, rounded and clipped; NaN becomes 0."""
    pixels = np.clip(np.rint((images.astype(np.float32) + 1.0) * 127.5), 0, 255)
    return np.nan_to_num(pixels, copy=False).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None, margin: int = 2, scale: int = 1) -> np.ndarray:
    """Lay images out in rows, on white.

    images: uint8 [N, C, H, W] with C 1 or 3. columns: None for a grid as square as possible. margin: pixels between
    images. scale: each pixel becomes scale × scale, for small images. Returns uint8 [H', W', 3]. Raises UsageError for
    other shapes or dtypes.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise UsageError(
            f"images: expected uint8 [N, 1 or 3, H, W] with N > 0, got {images.dtype} {list(images.shape)}"
        )
    n, _, h, w = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    images = np.repeat(np.repeat(images, scale, axis=2), scale, axis=3)
    h, w = h * scale, w * scale
    sheet = np.full((rows * (h + margin) + margin, columns * (w + margin) + margin, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = margin + (i // columns) * (h + margin), margin + (i % columns) * (w + margin)
        sheet[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    return sheet


def beside(left: np.ndarray, right: np.ndarray, gap: int = 14) -> np.ndarray:
    """Two pictures uint8 [H, W, 3] of the same height next to each other, on white."""
    return np.concatenate([left, np.full((left.shape[0], gap, 3), 255, np.uint8), right], axis=1)


def save_png(picture: np.ndarray, path: Path) -> Path:
    """Write uint8 [H, W, 3] as PNG, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    png = io.BytesIO()
    Image.fromarray(picture).save(png, format="PNG", optimize=True)
    write_whole(path, png.getvalue())
    return path


def save_grid(images: np.ndarray, path: Path, columns: int | None = None, scale: int = 1) -> Path:
    """`grid` and `save_png` in one: images uint8 [N, C, H, W], or float in [-1, 1]."""
    if images.dtype != np.uint8:
        images = to_uint8(images)
    return save_png(grid(images, columns, scale=scale), path)
