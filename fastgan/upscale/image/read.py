"""Image files as arrays, with everything beside the pixels that an upscaled picture should keep. numpy and Pillow."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from fastgan._util.files import amount
from fastgan._util.memory import free_host_memory
from fastgan.errors import DataError

#: What is read, by how a file begins. A name's suffix says nothing about content.
_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", 0, "PNG"),
    (b"\xff\xd8\xff", 0, "JPEG"),
    (b"WEBP", 8, "WEBP"),
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"BM", 0, "BMP"),
    (b"GIF8", 0, "GIF"),
)
# The plugins themselves, not Image.open: that refuses what is above a limit of the whole process, meant for servers.
# Ours is below, and looks at the memory there is.
_PLUGINS: dict[str, Callable[[Any], ImageFile.ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WEBP": WebPImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
}
#: The largest image that is read, in pixels: a file of a few kilobytes can claim any size.
LIMIT = 1 << 30
_ORIENTATION = 0x0112  # the EXIF tag by which cameras say how the picture is to be turned
_STRIP = 1 << 22  # pixels that are copied from Pillow's memory at a time
_MODES = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB",
          "RGBA": "RGBA", "RGBa": "RGBA"}  # fmt: skip
# N is the machine's own byte order, little-endian wherever PyTorch and ONNX Runtime run.
_OTHER_BYTE = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B",
               "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B", "RGBA;16N": "RGBA;16B"}  # fmt: skip
#: Chunks of a PNG file that say what its numbers look like, and how large it is to be printed.
_KEPT_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"pHYs")


@dataclass
class Picture:
    """An image file that was read.

    pixels: uint8 or uint16 [H, W, C], upright; C is 1 (gray), 2 (gray and alpha), 3 (RGB) or 4 (RGB and alpha); alpha
    is straight (colors are not multiplied by it). icc: the color profile's bytes. exif: the EXIF data's bytes, saying
    upright. chunks: what a PNG file says of its colors otherwise. notes: what could not be kept, as sentences.
    """

    pixels: np.ndarray
    icc: bytes | None = None
    exif: bytes | None = None
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def image_format(path: Path) -> str | None:
    """Which kind of image a file holds by its first bytes: "PNG", "JPEG", ...; None for anything else.

    Raises DataError for a file that is empty or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not start:
        raise DataError(f"{path} is empty")
    return next((name for word, at, name in _BEGINNINGS if start[at : at + len(word)] == word), None)


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of the picture as it will be shown, from the header alone. Raises DataError as `read` does."""
    with _open(path) as image:
        width, height = image.size
        # Asking a PNG without EXIF data for them would decode it.
        turned = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) >= 5
        return (width, height) if turned else (height, width)


def read(path: Path) -> Picture:
    """Decode an image file.

    Raises DataError for a file that is damaged, of an unsupported kind (animations, several pages, CMYK without a
    profile, floating-point or 32-bit samples) or larger than LIMIT or the free memory.
    """
    picture = Picture(np.empty((0, 0, 0), np.uint8))
    with _open(path) as image:
        rawmode = _rawmode(image)
        deep = ";16" in rawmode
        _check_memory(path, image, deep)
        image.load()
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # as above; the picture itself is whole
            orientation = 1
            picture.notes.append("the EXIF data cannot be read, so the picture was not turned")
        picture.icc = image.info.get("icc_profile") or None
        if "exif" in image.info:
            picture.exif = _saying_upright(image.info["exif"].removeprefix(b"Exif\0\0"))
        if image.format == "PNG":
            picture.chunks = _kept_chunks(path)
        pixels = _deep(path, image, rawmode) if deep else _shallow(path, _colored(path, image, picture))
    picture.pixels = _turned(pixels, orientation)
    return picture


@contextmanager
def _open(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The image with its header read; whatever goes wrong in the block becomes a DataError."""
    kind = image_format(path)
    if kind is None:
        raise DataError(f"{path} is not an image of a kind that can be read ({', '.join(_PLUGINS)})")
    try:
        with _PLUGINS[kind](path) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1:
                what = "pages" if kind == "TIFF" else "frames of an animation"
                raise DataError(f"{path} holds {frames} {what}; a single picture was expected")
            yield image
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged files
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{path} is damaged or not supported: {reason}") from error


def _check_memory(path: Path, image: Image.Image, deep: bool) -> None:
    width, height = image.size
    if width * height > LIMIT:
        raise DataError(f"{path} is {width}×{height} pixels; at most {LIMIT / 1e6:,.0f} megapixels are read")
    # Pillow's own memory, 4 bytes a pixel for anything with colors, and the array beside it.
    gray = image.mode in ("1", "L") or image.mode.startswith("I")
    needed = width * height * ((4 if gray else 8) + (4 if deep else 0))
    if needed > (free := free_host_memory()):
        raise DataError(f"{path} is {width}×{height}; reading it takes {amount(needed)}, and {amount(free)} are free")


def _rawmode(image: ImageFile.ImageFile) -> str:
    """How the samples lie in the file, as Pillow tells its decoder: "RGB;16B" are three of two bytes, big-endian."""
    arguments = image.tile[0][3] if image.tile else ""
    found = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return found if isinstance(found, str) else ""


def _colored(path: Path, image: Image.Image, picture: Picture) -> Image.Image:
    """CMYK as sRGB; anything else as it is."""
    if image.mode != "CMYK":
        return image
    if picture.icc is None:
        raise DataError(f"{path} is CMYK without a color profile, so its colors are not known; convert it to RGB first")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc))
    picture.icc = None
    picture.notes.append("CMYK was converted to sRGB by its profile")
    result = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert result is not None  # None is for inPlace alone
    return result


def _shallow(path: Path, image: Image.Image) -> np.ndarray:
    """uint8 [H, W, C] of a mode with 8 bits or less. In strips: at once, Pillow makes two further copies."""
    if image.mode not in _MODES:
        raise DataError(
            f"{path} has the pixel format {image.mode!r}; gray, RGB and palettes can be read, with and without alpha"
        )
    mode = _MODES[image.mode]
    if "transparency" in image.info and mode in ("L", "RGB"):
        mode += "A"
    width, height = image.size
    pixels = np.empty((height, width, len(mode)), np.uint8)
    for top, bottom in _strips(height, width):
        strip = image.crop((0, top, width, bottom))
        if strip.mode != mode:
            strip = strip.convert(mode)
        pixels[top:bottom] = np.asarray(strip).reshape(bottom - top, width, -1)
    return pixels


def _deep(path: Path, image: Image.Image, rawmode: str) -> np.ndarray:
    """uint16 [H, W, C]. Pillow has no colors of 16 bits: their file is decoded twice, once for either byte."""
    width, height = image.size
    if rawmode in ("I;16", "I;16B", "I;16N"):
        pixels = np.empty((height, width, 1), np.uint16)
        for top, bottom in _strips(height, width):
            pixels[top:bottom, :, 0] = np.asarray(image.crop((0, top, width, bottom)))
    elif rawmode == "LA;16B":
        # Read as four channels of 8 bits, the same bytes are high, low, high, low.
        four = _decoded_as(path, "RGBA")
        pixels = np.empty((height, width, 2), np.uint16)
        for top, bottom in _strips(height, width):
            strip = np.asarray(four.crop((0, top, width, bottom)))
            pixels[top:bottom] = strip[..., ::2].astype(np.uint16) << 8 | strip[..., 1::2]
    elif rawmode in _OTHER_BYTE:
        # Of either byte order Pillow keeps the high byte; told of the other order, it keeps the low one.
        low = _decoded_as(path, _OTHER_BYTE[rawmode])
        pixels = np.empty((height, width, len(image.mode)), np.uint16)
        for top, bottom in _strips(height, width):
            box = (0, top, width, bottom)
            pixels[top:bottom] = np.asarray(image.crop(box)).astype(np.uint16) << 8 | np.asarray(low.crop(box))
    else:
        raise DataError(f"{path} has 16-bit samples of a kind that is not supported ({rawmode})")
    key = image.info.get("transparency")
    if key is not None and pixels.shape[2] in (1, 3):  # one color stands for transparent
        alpha = np.where((pixels == np.asarray(key)).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
        pixels = np.concatenate([pixels, alpha], axis=2)
    return pixels


def _decoded_as(path: Path, rawmode: str) -> Image.Image:
    """The image decoded as if its samples lay in another way that has as many bytes."""
    with _open(path) as image:
        tiles: list[Any] = list(image.tile)
        arguments = [tile[3] for tile in tiles]
        image.tile = [
            tile._replace(args=(rawmode, *old[1:]) if isinstance(old, tuple) else rawmode)
            for tile, old in zip(tiles, arguments, strict=True)
        ]
        image._mode = rawmode.partition(";")[0]
        image.load()
        return image


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _STRIP // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view that is upright, by the eight values of EXIF's orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _saying_upright(exif: bytes) -> bytes:
    """EXIF data with the orientation set to 1, and every other byte as it is; as they are where they cannot be read."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return exif
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            if struct.unpack_from(f"{order}HHI", exif, at) == (_ORIENTATION, 3, 1):
                return exif[: at + 8] + struct.pack(f"{order}HH", 1, 0) + exif[at + 12 :]
    except struct.error:  # the offsets lead out of it
        pass
    return exif


def _kept_chunks(path: Path) -> list[tuple[bytes, bytes]]:
    """What a PNG file says of its colors beside a profile, and its pixels per metre."""
    found = []
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = int.from_bytes(head[:4]), head[4:]
            if name == b"IDAT":
                break
            if name in _KEPT_CHUNKS:
                found.append((name, file.read(length)))
                file.seek(4, io.SEEK_CUR)
            else:
                file.seek(length + 4, io.SEEK_CUR)
    return found
