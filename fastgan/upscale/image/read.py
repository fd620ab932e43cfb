"""Read image files as arrays, with the metadata that an upscaled image should keep (Pillow)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile, features
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from fastgan._util.files import amount
from fastgan._util.memory import can_hold, free_host_memory
from fastgan.errors import DataError
from fastgan.upscale.image.metadata import Metadata, orientation_of, read_metadata

#: Formats by the first bytes of a file (signature, offset); the suffix of the name is ignored.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", 0, "PNG"),
    (b"\xff\xd8\xff", 0, "JPEG"),
    (b"WEBP", 8, "WEBP"),
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"II+\0", 0, "TIFF"),  # BigTIFF; Pillow fails at the big-endian one
    (b"BM", 0, "BMP"),
    (b"GIF8", 0, "GIF"),
    (b"ftypavif", 4, "AVIF"),
)
# The plugins, not Image.open: that applies a process-wide size limit. LIMIT and the free memory are checked here.
_PLUGINS: dict[str, Callable[[Any], ImageFile.ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WEBP": WebPImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
}
with contextlib.suppress(ImportError):  # older Pillow
    from PIL.AvifImagePlugin import AvifImageFile

    if features.check("avif"):
        _PLUGINS["AVIF"] = AvifImageFile
#: The largest image that is read, in pixels: the header of a small file can claim any size.
LIMIT = 1 << 30
_STRIP = 1 << 22  # pixels copied from Pillow at a time
_MODES = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB",
          "RGBA": "RGBA", "RGBa": "RGBA"}  # fmt: skip
# Pillow's raw modes of 16 bits with the other byte order. N is the native one, little-endian on all supported systems.
_SWAPPED = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B",
               "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B", "RGBA;16N": "RGBA;16B"}  # fmt: skip
#: Pillow's raw modes of gray with 2 and 4 bits, and the factors that bring them to 8.
_LOW_BITS = {"L;2": 85, "L;4": 17}
# TIFF tags and values.
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 258, 262, 277, 284, 338, 339
_MIN_IS_WHITE, _RGB, _SEPARATE = 0, 2, 2


@dataclass
class DecodedImage:
    """A decoded image file.

    pixels: uint8 or uint16 [H, W, C] with the EXIF orientation applied; C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4
    (RGB, alpha); alpha is straight (not premultiplied). metadata: what else the file says of the image. notes:
    sentences about what could not be kept.
    """

    pixels: np.ndarray
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)


def image_format(path: Path) -> str | None:
    """The format of an image file by its first bytes: "PNG", "JPEG", ...; None for anything else.

    Raises DataError for a file that is empty or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not start:
        raise DataError(f"{path} is empty")
    return next((name for word, at, name in _SIGNATURES if start[at : at + len(word)] == word), None)


def can_read(path: Path) -> bool:
    """Whether the content is an image in a format that this Pillow reads. Raises DataError like `image_format`."""
    return image_format(path) in _PLUGINS


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) after EXIF rotation, mostly from the header alone. Raises DataError like `read`."""
    with open_image(path) as image:
        width, height = image.size
        return (width, height) if orientation_of(path, image) >= 5 else (height, width)


def read(path: Path) -> DecodedImage:
    """Decode an image file.

    Raises DataError for a file that is damaged, of an unsupported kind (animations, several pages, CMYK without a
    profile, TIFF whose samples Pillow cannot decode exactly) or larger than LIMIT or the free memory.
    """
    with open_image(path) as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            what = "pages" if image.format == "TIFF" else "frames of an animation"
            raise DataError(f"{path} holds {frames} {what}; expected a single image")
        return decode(path, image)


def decode(path: Path, image: ImageFile.ImageFile) -> DecodedImage:
    """Decode an image whose header has been read. Raises DataError or what Pillow raises."""
    notes = _check_tiff(path, image) if image.format == "TIFF" else []
    rawmode = _rawmode(image)
    deep = ";16" in rawmode
    check_memory(path, image, deep)
    image.load()
    metadata, orientation = read_metadata(path, image, notes)
    if deep:
        pixels = _decode_16bit(path, image, rawmode)
    else:
        pixels = _decode_8bit(path, _cmyk_to_srgb(path, image, metadata, notes), rawmode)
    return DecodedImage(apply_orientation(pixels, orientation), metadata, notes)


def _check_tiff(path: Path, image: ImageFile.ImageFile) -> list[str]:
    """Raise DataError for samples that Pillow decodes to wrong values, without an error. Returns notes."""
    tags: Any = getattr(image, "tag_v2")  # noqa: B009  # of TiffImageFile
    bits, formats = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
    if formats - {1, 4}:  # unsigned, undefined
        raise DataError(f"{path} has signed or floating-point samples; expected unsigned ones of 8 or 16 bits")
    planes = tags.get(_PLANAR, 1) == _SEPARATE and tags.get(_SAMPLES, 1) > 1
    if planes and (bits != {8} or tags.get(_PHOTOMETRIC) != _RGB):
        raise DataError(
            f"{path} stores its channels in separate planes, which is read for RGB of 8 bits only; save it with"
            " interleaved channels"
        )
    if 0 in tags.get(_EXTRA, ()):
        return ["a channel of unspecified meaning was left out"]
    return []


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The image with its header read. Any error in the block becomes a DataError."""
    kind = image_format(path)
    if kind not in _PLUGINS:
        raise DataError(f"{path} is not an image in a supported format ({', '.join(_PLUGINS)})")
    try:
        with _PLUGINS[kind](path) as image:
            yield image
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged files
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{path} is damaged or not supported: {reason}") from error


def check_memory(path: Path, image: Image.Image, deep: bool) -> None:
    width, height = image.size
    if width * height > LIMIT:
        raise DataError(f"{path} is {width}×{height} pixels; at most {LIMIT / 1e6:,.0f} megapixels are read")
    # Pillow's memory (4 bytes a pixel for colors) and the array.
    gray = image.mode in ("1", "L") or image.mode.startswith("I")
    needed = width * height * ((4 if gray else 8) + (4 if deep else 0))
    if needed > (free := free_host_memory()):
        raise DataError(f"{path} is {width}×{height}; reading it takes {amount(needed)}, and {amount(free)} are free")
    if not can_hold(size := path.stat().st_size, image.format, width * height):
        raise DataError(f"{path} is damaged: its header states {width}×{height} pixels, and it has {size:,} bytes")


def _rawmode(image: ImageFile.ImageFile) -> str:
    """Pillow's raw mode, the sample layout in the file: "RGB;16B" is three big-endian samples of 16 bits."""
    arguments = image.tile[0][3] if image.tile else ""
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def _cmyk_to_srgb(path: Path, image: Image.Image, metadata: Metadata, notes: list[str]) -> Image.Image:
    """Convert CMYK by its profile; other modes are returned unchanged."""
    if image.mode != "CMYK":
        return image
    if metadata.icc is None:
        raise DataError(f"{path} is CMYK without a color profile, so its colors are undefined; convert it to RGB first")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(metadata.icc))
    metadata.icc = None
    notes.append("CMYK was converted to sRGB by its profile")
    result = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert result is not None  # None is returned for inPlace only
    return result


def _decode_8bit(path: Path, image: Image.Image, rawmode: str) -> np.ndarray:
    """uint8 [H, W, C] of a mode with 8 bits or less. In strips, since Pillow's conversion makes two further copies."""
    if image.mode not in _MODES:
        raise DataError(
            f"{path} has the pixel format {image.mode!r}; gray, RGB and palettes can be read, with and without alpha"
        )
    mode = _MODES[image.mode]
    if "transparency" in image.info and mode in ("L", "RGB"):
        mode += "A"
    if image.format == "PNG" and rawmode in _LOW_BITS and "transparency" in image.info:
        # Pillow brings the pixels to 8 bits, but not the value that is transparent.
        image.info["transparency"] *= _LOW_BITS[rawmode]
    width, height = image.size
    pixels = np.empty((height, width, len(mode)), np.uint8)
    for top, bottom in _strips(height, width):
        strip = image.crop((0, top, width, bottom))
        if strip.mode != mode:
            strip = strip.convert(mode)
        pixels[top:bottom] = np.asarray(strip).reshape(bottom - top, width, -1)
    return pixels


def _decode_16bit(path: Path, image: Image.Image, rawmode: str) -> np.ndarray:
    """uint16 [H, W, C]. Pillow has no RGB of 16 bits: the file is decoded twice, for the high and the low bytes."""
    width, height = image.size
    if rawmode in ("I;16", "I;16B", "I;16N"):
        pixels = np.empty((height, width, 1), np.uint16)
        for top, bottom in _strips(height, width):
            pixels[top:bottom, :, 0] = np.asarray(image.crop((0, top, width, bottom)))
        if image.format == "TIFF" and getattr(image, "tag_v2").get(_PHOTOMETRIC) == _MIN_IS_WHITE:  # noqa: B009
            np.subtract(65535, pixels, out=pixels)
    elif rawmode == "LA;16B":
        # Decoded as four channels of 8 bits, the bytes are high, low, high, low.
        four = _decoded_as(path, "RGBA")
        pixels = np.empty((height, width, 2), np.uint16)
        for top, bottom in _strips(height, width):
            strip = np.asarray(four.crop((0, top, width, bottom)))
            pixels[top:bottom] = strip[..., ::2].astype(np.uint16) << 8 | strip[..., 1::2]
    elif rawmode in _SWAPPED:
        # Pillow keeps the high byte; with the other byte order it keeps the low one.
        low = _decoded_as(path, _SWAPPED[rawmode])
        pixels = np.empty((height, width, len(image.mode)), np.uint16)
        for top, bottom in _strips(height, width):
            box = (0, top, width, bottom)
            pixels[top:bottom] = np.asarray(image.crop(box)).astype(np.uint16) << 8 | np.asarray(low.crop(box))
    else:
        raise DataError(f"{path} has an unsupported layout of 16-bit samples ({rawmode})")
    key = image.info.get("transparency")
    if key is not None and pixels.shape[2] in (1, 3):  # this color is transparent
        alpha = np.where((pixels == np.asarray(key)).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
        pixels = np.concatenate([pixels, alpha], axis=2)
    return pixels


def _decoded_as(path: Path, rawmode: str) -> Image.Image:
    """The image decoded with another raw mode of the same number of bytes."""
    with open_image(path) as image:
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


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view with EXIF orientation 1 to 8 applied."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
