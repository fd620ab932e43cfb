"""Pictures into files: which format a name asks for, what that can hold, and the writing, whole or not at all."""

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
from fastgan.upscale.image.png import END, PngWriter, icc_chunk
from fastgan.upscale.image.read import Picture

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
#: The longest side of each, in pixels: libjpeg's own limit is below the format's 65,535.
_SIDES = {"PNG": (1 << 31) - 1, "JPEG": 65_500, "WEBP": 16_383, "TIFF": (1 << 31) - 1, "BMP": (1 << 31) - 1}
_WITHOUT_ALPHA = ("JPEG", "BMP")
_BYTES = (1 << 32) - (1 << 20)  # offsets in TIFF and BMP have 32 bits
_EXIF = 65_527  # what a JPEG's segment holds of EXIF data
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
}


def output_format(out: Path) -> str:
    """The format that a file's name asks for. Raises UsageError for a suffix that is none of FORMATS."""
    if (kind := FORMATS.get(out.suffix.lower())) is None:
        raise UsageError(f"out: expected a name that ends in {', '.join(FORMATS)}, got {out.name}")
    return kind


def check_size(out: Path, height: int, width: int, channels: int) -> None:
    """Raise DataError where a picture of that size cannot go into that format, or not through this memory."""
    kind = output_format(out)
    if max(height, width) > _SIDES[kind]:
        raise DataError(
            f"{out} would be {width}×{height}, and a side of a {kind} file has at most {_SIDES[kind]:,}; write PNG"
        )
    if kind == "PNG":
        return  # in strips
    size = height * width * channels
    if kind in ("TIFF", "BMP") and size > _BYTES:
        raise DataError(f"{out} would be {width}×{height}, more than the 4 GB that {kind} can hold; write PNG")
    # Pillow keeps 4 bytes a pixel of anything with colors, beside the array.
    needed = size + height * width * (1 if channels == 1 else 4)
    if needed > (free := free_host_memory()):
        raise DataError(
            f"{out} would be {width}×{height}: a {kind} file is written from memory, which takes {amount(needed)}, and "
            f"{amount(free)} are free; write PNG, which goes in strips"
        )


def write(out: Path, height: int, width: int, strips: Iterable[np.ndarray], like: Picture) -> list[str]:
    """Write a picture of that size whose rows come in strips of [h, width, C], from top to bottom.

    like: what it was made from; number of channels and bits, profile and further data are taken over. Returns what the
    format could not keep, as sentences. Raises WriteError where the file cannot be written; then there is none.
    """
    channels, depth = like.pixels.shape[2], 8 * like.pixels.dtype.itemsize
    kind = output_format(out)
    with writing_whole(out) as file:
        if kind == "PNG":
            png = PngWriter(file, height, width, channels, depth, _chunks(like))
            for rows in strips:
                png.write(rows)
            png.close()
            return []
        notes = _notes(kind, like)
        image = _gathered(kind, height, width, strips, like)
        options = dict(_OPTIONS[kind])
        if like.icc is not None and kind != "BMP":
            options["icc_profile"] = like.icc
        if like.exif is not None and kind in ("JPEG", "WEBP") and len(like.exif) <= _EXIF:
            options["exif"] = b"Exif\0\0" + like.exif
        image.save(file, format=kind, **options)
        return notes


def is_whole(path: Path) -> bool:
    """Whether a file has the end that its format prescribes: one that was cut off has not. TIFF prescribes none."""
    with path.open("rb") as file:
        start = file.read(12)
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - len(END)))
        end = file.read()
    kind = output_format(path)
    if kind == "PNG":
        return end == END
    if kind == "JPEG":
        return end.endswith(b"\xff\xd9")
    if kind == "WEBP":
        return int.from_bytes(start[4:8], "little") + 8 <= size
    return kind == "TIFF" or int.from_bytes(start[2:6], "little") <= size


def _chunks(like: Picture) -> list[tuple[bytes, bytes]]:
    chunks = list(like.chunks) if like.icc is None else [chunk for chunk in like.chunks if chunk[0] != b"sRGB"]
    if like.icc is not None:
        chunks.append(icc_chunk(like.icc))
    if like.exif is not None:
        chunks.append((b"eXIf", like.exif))
    return chunks


def _notes(kind: str, like: Picture) -> list[str]:
    """What a format other than PNG cannot hold of a picture."""
    channels, deep = like.pixels.shape[2], like.pixels.dtype == np.uint16
    notes = []
    if deep and not (kind == "TIFF" and channels == 1):
        notes.append(f"{kind} is written with 8 bits a sample, rounded from 16; PNG keeps them")
    if channels in (2, 4) and kind in _WITHOUT_ALPHA:
        notes.append(f"{kind} has no alpha: the picture was laid on white")
    if channels <= 2 and kind == "WEBP":
        notes.append("WEBP has no gray: it was written as RGB")
    if like.icc is not None and kind == "BMP":
        notes.append("BMP holds no color profile: it was left out")
    if like.exif is not None and (kind in ("TIFF", "BMP") or (kind == "JPEG" and len(like.exif) > _EXIF)):
        notes.append(f"the EXIF data were left out, which {kind} cannot hold as they are")
    return notes


def _gathered(kind: str, height: int, width: int, strips: Iterable[np.ndarray], like: Picture) -> Image.Image:
    """The whole picture in Pillow's memory, as that format takes it."""
    channels, deep = like.pixels.shape[2], like.pixels.dtype == np.uint16
    opaque = channels in (2, 4) and kind in _WITHOUT_ALPHA
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels - opaque]
    deep_too = deep and kind == "TIFF" and channels == 1
    image = Image.new("I;16" if deep_too else mode, (width, height))
    top = 0
    for rows in strips:
        if deep and not deep_too:
            rows = ((rows.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        if opaque:
            rows = _on_white(rows)
        image.paste(Image.fromarray(rows[..., 0] if channels - opaque == 1 else rows), (0, top))
        top += len(rows)
    assert top == height
    return image


def _on_white(rows: np.ndarray) -> np.ndarray:
    """uint8 [h, W, C + 1], the last being alpha → uint8 [h, W, C]."""
    colors, alpha = rows[..., :-1].astype(np.uint32), rows[..., -1:].astype(np.uint32)
    return ((colors * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
