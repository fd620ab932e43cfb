"""Mutated images."""

import io
import shutil
import struct
import zlib
from pathlib import Path
from random import Random

import mutations
import numpy as np


def _picture(mode: str, kind: str, **options) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def png_seeds(_):
    return [_picture("RGB", "PNG"), _picture("P", "PNG"), _picture("LA", "PNG"), _picture("RGB", "PNG", dpi=(72, 72))]


def jpeg_seeds(_):
    return [
        _picture("RGB", "JPEG"),
        _picture("L", "JPEG", progressive=True),
        _picture("RGB", "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    ]


def tiff_seeds(_):
    return [
        _picture("RGB", "TIFF"),
        _picture("L", "TIFF", compression="tiff_lzw"),
        _picture("RGB", "TIFF", compression="tiff_deflate"),
        _picture("I;16", "TIFF"),
    ]


def webp_seeds(_):
    return [_picture("RGB", "WEBP"), _picture("RGBA", "WEBP", lossless=True)]


def png_fields(random: Random, data: bytes) -> bytes:
    """Bytes within a chunk, whose checksum is then right; or a header of another size."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    chosen = random.choice(chunks)
    if chosen[0] == b"IHDR" and random.random() < 0.8:
        width, height = (random.choice((0, 1, 20, 20_000, 100_000, 2**31 - 1, 2**32 - 1)) for _ in range(2))
        chosen[1] = struct.pack(">II", width, height) + (
            chosen[1][8:]
            if random.random() < 0.5
            else bytes((random.choice((1, 8, 16)), random.randrange(7), 0, 0, random.randrange(2)))
        )
    else:
        chosen[1] = mutations.of_bytes(random, chosen[1])
    if random.random() < 0.1:
        chunks.insert(
            1, [random.choice((b"iCCP", b"zTXt", b"tEXt", b"eXIf", b"acTL", b"PLTE")), zlib.compress(bytes(1 << 24))]
        )
    return data[:8] + b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )


def jpeg_fields(random: Random, data: bytes) -> bytes:
    """The frame header states another size or number of components."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    size = struct.pack(">HH", *(random.choice((0, 1, 20_000, 65_535, 65_500)) for _ in range(2)))
    changed = data[: at + 5] + size + data[at + 9 :]
    return changed if random.random() < 0.7 else mutations.of_bytes(random, changed)


def webp_fields(random: Random, data: bytes) -> bytes:
    """Another canvas: of VP8X, VP8L or VP8."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        changed[random.randrange(12, 40)] = random.choice((0, 0xFF, 0x3F, random.randrange(256)))
    return bytes(changed)


def tiff_fields(random: Random, data: bytes) -> bytes:
    """A value in the directory is another one."""
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    changed = bytearray(data)
    for _ in range(random.randint(1, 2)):
        at = start + 2 + 12 * random.randrange(entries)
        field = random.choice(((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"), (8, "<I")))
        value = random.choice((0, 1, 2, 3, 8, 16, 32, 317, 20_000, 65_535, 2**31 - 1, 2**32 - 1))
        struct.pack_into(field[1], changed, at + field[0], value if field[1] == "<I" else value & 0xFFFF)
    return bytes(changed)


def open_image(path: Path) -> object:
    from fastgan.upscale.image import read

    read.read_size(path)
    return read.read(path)


def _open_image_folder(path: Path) -> object:
    """As training data: the image among three good ones."""
    from fastgan.data import open_source

    folder = path.parent / "folder"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(_picture("RGB", "PNG"))
    shutil.copy(path, folder / f"x{path.suffix}")
    return open_source(folder, resolution=16)


def open_both(path: Path) -> object:
    from fastgan.errors import FastganError

    try:
        open_image(path)
    except FastganError:
        _open_image_folder(path)
        raise
    return _open_image_folder(path)
