"""Write images: the format of a file name, what that format can hold, and the atomic write."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastgan._util.files import amount, writing_whole
from fastgan._util.memory import free_host_memory
from fastgan.errors import DataError, UsageError
from fastgan.upscale.image.metadata import pillow_options, png_chunks
from fastgan.upscale.image.png import END, PngWriter
from fastgan.upscale.image.read import DecodedImage

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
#: Formats that hold animations, by suffix. A still image is not written as GIF, which has 256 colors.
ANIMATED = {".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}
#: The largest side of each format, in pixels; libjpeg's limit is below the format's 65,535.
_SIDES = {"PNG": (1 << 31) - 1, "JPEG": 65_500, "WEBP": 16_383, "TIFF": (1 << 31) - 1, "BMP": (1 << 31) - 1}
_WITHOUT_ALPHA = ("JPEG", "BMP")
_BYTES = (1 << 32) - (1 << 20)  # offsets in TIFF and BMP have 32 bits
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
}


def output_format(out: Path) -> str:
    """The format of a file name. Raises UsageError for a suffix that is not in FORMATS."""
    if (kind := FORMATS.get(out.suffix.lower())) is None:
        raise UsageError(f"out: expected a name that ends in {', '.join(FORMATS)}, got {out.name}")
    return kind


def make_folder(out: Path) -> None:
    """Create the folder of a file to write. Raises UsageError where that is not possible."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out: {out.parent} cannot be created: {error.strerror or error}") from error


def check_size(out: Path, height: int, width: int, channels: int) -> None:
    """Raise DataError where the format, or the free memory, does not allow an image of that size."""
    kind = output_format(out)
    if max(height, width) > _SIDES[kind]:
        raise DataError(
            f"{out} would be {width}×{height}, and a side of a {kind} file has at most {_SIDES[kind]:,}; write PNG"
        )
    if kind == "PNG":
        return  # written in strips
    size = height * width * channels
    if kind in ("TIFF", "BMP") and size > _BYTES:
        raise DataError(f"{out} would be {width}×{height}, more than the 4 GB that {kind} can hold; write PNG")
    # Pillow takes 4 bytes a pixel for colors, in addition to the array.
    needed = size + height * width * (1 if channels == 1 else 4)
    if needed > (free := free_host_memory()):
        raise DataError(
            f"{out} would be {width}×{height}: a {kind} file is written from memory, which takes {amount(needed)}, and "
            f"{amount(free)} are free; write PNG, which is written in strips"
        )


def write(out: Path, height: int, width: int, strips: Iterable[np.ndarray], source: DecodedImage) -> list[str]:
    """Write an image from its rows in strips [h, width, C], from top to bottom, atomically.

    source: the image that it was made from: its number of channels and bits, and its metadata are kept. Returns notes,
    one sentence for each thing that the format cannot hold. Raises WriteError where the file cannot be written; an
    existing file is then unchanged.
    """
    channels, depth = source.pixels.shape[2], 8 * source.pixels.dtype.itemsize
    kind = output_format(out)
    with writing_whole(out) as file:
        if kind == "PNG":
            png = PngWriter(file, height, width, channels, depth, png_chunks(source.metadata))
            for rows in strips:
                png.write(rows)
            png.close()
            return []
        options, lost = pillow_options(kind, source.metadata)
        image = _to_pillow(kind, height, width, strips, source)
        image.save(file, format=kind, **_OPTIONS[kind], **options)
        return _notes(kind, source) + lost


def is_complete(path: Path) -> bool:
    """Whether a file has the end that its format prescribes, so that it is not cut off. TIFF prescribes none."""
    with path.open("rb") as file:
        start = file.read(12)
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - len(END)))
        end = file.read()
    kind = (FORMATS | ANIMATED)[path.suffix.lower()]
    if kind == "PNG":
        return end == END
    if kind == "GIF":
        return end.endswith(b";")
    if kind == "JPEG":
        return end.endswith(b"\xff\xd9")
    if kind == "WEBP":
        return int.from_bytes(start[4:8], "little") + 8 <= size
    return kind == "TIFF" or int.from_bytes(start[2:6], "little") <= size


def _notes(kind: str, source: DecodedImage) -> list[str]:
    """Notes on what a format other than PNG cannot hold of an image."""
    channels, deep = source.pixels.shape[2], source.pixels.dtype == np.uint16
    notes = []
    if deep and not (kind == "TIFF" and channels == 1):
        notes.append(f"{kind} is written with 8 bits a sample, rounded from 16; PNG keeps 16")
    if channels in (2, 4) and kind in _WITHOUT_ALPHA:
        notes.append(f"{kind} has no alpha: the image was composited on white")
    if channels <= 2 and kind == "WEBP":
        notes.append("WEBP has no gray: the image was written as RGB")
    return notes


def _to_pillow(kind: str, height: int, width: int, strips: Iterable[np.ndarray], source: DecodedImage) -> Image.Image:
    """The whole image in Pillow, in the mode that the format takes."""
    channels, deep = source.pixels.shape[2], source.pixels.dtype == np.uint16
    flatten = channels in (2, 4) and kind in _WITHOUT_ALPHA
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels - flatten]
    keep_16bit = deep and kind == "TIFF" and channels == 1
    image = Image.new("I;16" if keep_16bit else mode, (width, height))
    top = 0
    for rows in strips:
        if deep and not keep_16bit:
            rows = ((rows.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        if flatten:
            rows = _composite_on_white(rows)
        image.paste(Image.fromarray(rows[..., 0] if channels - flatten == 1 else rows), (0, top))
        top += len(rows)
    assert top == height
    return image


def _composite_on_white(rows: np.ndarray) -> np.ndarray:
    """uint8 [h, W, C + 1], the last being alpha → uint8 [h, W, C]."""
    colors, alpha = rows[..., :-1].astype(np.uint32), rows[..., -1:].astype(np.uint32)
    return ((colors * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
