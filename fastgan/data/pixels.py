"""Decode image files with Pillow to uint8 gray or RGB of one size; convert arrays likewise."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from fastgan._util.memory import can_hold, require_memory

_ORIENTATION = 0x0112  # EXIF tag number
_MEMORY = 12  # bytes for each pixel: decoded, without alpha, resized
_IMAGES_PER_JOB = 256  # of an array, converted by one worker


class Header(NamedTuple):
    """Facts of a file that need no decoding: height and width after EXIF rotation, whether it is gray, and whether it
    has an alpha channel or a transparent color."""

    height: int
    width: int
    gray: bool
    alpha: bool = False


def pool() -> ThreadPoolExecutor:
    """Threads for decoding and resizing: Pillow releases the GIL in both."""
    return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="fastgan-data")


def read_header(file: Path | BinaryIO) -> Header:
    """Read the header of an image file without decoding it. Raises any of Pillow's errors on a damaged file."""
    with Image.open(file) as image:
        width, height = image.size
        size = (width, height) if _orientation(image) >= 5 else (height, width)
        return Header(*size, _is_gray(image), _has_alpha(image))


def decode(file: Path | BinaryIO, channels: int, resolution: int | None, half: str = "") -> np.ndarray:
    """Decode a file to uint8 [channels, H, W].

    The EXIF orientation is applied and alpha is composited on white. half: "left" or "right" for that half of the
    picture alone. resolution: crop to the centered square and resize to resolution × resolution; None keeps the size.
    Raises any of Pillow's errors on a damaged file, and ValueError or
    DataError where its header states more pixels than the file or the free memory can hold.
    """
    with Image.open(file) as image:
        pixels, size = image.width * image.height, _size(file)
        if not can_hold(size, image.format, pixels):
            raise ValueError(f"its header states {image.width}×{image.height} pixels, and it has {size:,} bytes")
        require_memory(_MEMORY * pixels, f"an image of {image.width}×{image.height}")
        upright = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
        flat = flatten(upright if not half else _half(upright, half), channels)
    return _to_planes(flat if resolution is None else crop_resize(flat, resolution))


def _half(image: Image.Image, side: str) -> Image.Image:
    width, height = image.size
    return image.crop((0, 0, width // 2, height) if side == "left" else (width - width // 2, 0, width, height))


def _size(file: Path | BinaryIO) -> int:
    """Bytes of a file, which stays where it is."""
    if isinstance(file, Path):
        return file.stat().st_size
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(here)
    return end


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Any Pillow mode to 8-bit L (channels 1) or RGB (3). Alpha is composited on white; 16 bits are rounded to 8."""
    if image.mode.startswith("I"):
        wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if _has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("1", "L", "RGB"):
        return image.convert(mode)
    return image.convert("RGB").convert(mode)


def crop_resize(image: Image.Image, resolution: int) -> Image.Image:
    """The largest centered square, resized (Lanczos) to resolution × resolution; unchanged where it has that size."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image if width == height else image.crop((left, top, left + side, top + side))
    return square if side == resolution else square.resize((resolution, resolution), Image.Resampling.LANCZOS)


def convert(images: np.ndarray, resolution: int | None, channels: int | None) -> np.ndarray:
    """uint8 [N, C, H, W] to another size or number of channels; the same array object where nothing changes."""
    count, old_channels, height, width = images.shape
    channels = channels or old_channels
    size = (height, width) if resolution is None else (resolution, resolution)
    if (old_channels, height, width) == (channels, *size):
        return images
    result = np.empty((count, channels, *size), np.uint8)

    def convert_job(start: int) -> None:
        for i in range(start, min(start + _IMAGES_PER_JOB, count)):
            plane = images[i, 0] if old_channels == 1 else np.ascontiguousarray(images[i].transpose(1, 2, 0))
            image = flatten(Image.fromarray(plane), channels)
            result[i] = _to_planes(image if resolution is None else crop_resize(image, resolution))

    with pool() as workers:
        list(workers.map(convert_job, range(0, count, _IMAGES_PER_JOB)))
    return result


def _to_planes(image: Image.Image) -> np.ndarray:
    """L or RGB to uint8 [1 or 3, H, W]."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _orientation(image: Image.Image) -> int:
    # getexif() of a PNG without EXIF data decodes the whole image.
    return image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _is_gray(image: Image.Image) -> bool:
    if image.mode in ("P", "PA") and image.palette is not None:
        # Not getpalette(), which decodes the image.
        layout, colors = image.palette.getdata()
        entries = np.frombuffer(colors, np.uint8).reshape(-1, len(layout))[:, :3]
        return bool((entries == entries[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
