"""What image files hold besides pixels: profile, EXIF data, XMP, resolution, comments, texts."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import ImageFile

from fastgan.upscale.image.png import icc_chunk

_ORIENTATION = 0x0112  # EXIF tag number
_XMP_TAG, _DESCRIPTION_TAG = 700, 270  # of TIFF
_XMP_KEYWORD = b"XML:com.adobe.xmp"
#: PNG chunks that are kept as they are: gamma, chromaticities, color space, HDR metadata, physical pixel size.
_KEPT = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_INCH = 0.0254  # meters


@dataclass
class Metadata:
    """icc: the ICC profile. exif: the EXIF data with orientation 1. xmp: the XMP packet, likewise. dpi: horizontal and
    vertical resolution in dots per inch. comment: of JPEG, GIF and TIFF. chunks: the kept chunks of a PNG file, its
    texts included, which only a PNG file can hold.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)


def read_metadata(path: Path, image: ImageFile.ImageFile, notes: list[str]) -> tuple[Metadata, int]:
    """The metadata of an image that is loaded, and its EXIF orientation, 1 to 8. Appends notes on what is not kept."""
    info = image.info
    metadata = Metadata(icc=info.get("icc_profile") or None)
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data; the pixels are intact
        orientation = 1
        notes.append("the EXIF data cannot be read, so the orientation was not applied")
    if "exif" in info:
        metadata.exif = reset_exif_orientation(info["exif"].removeprefix(b"Exif\0\0"))
    if "Raw profile type exif" in info:
        notes.append("EXIF data in a text field were left out")
    if xmp := _xmp(image):
        metadata.xmp = re.sub(rb'(tiff:Orientation(?:="|>))[0-9]', rb"\g<1>1", xmp)
    if "dpi" in info and all(0 < value < 1e6 for value in info["dpi"]):
        metadata.dpi = float(info["dpi"][0]), float(info["dpi"][1])
    elif image.format == "JPEG" and len(set(info.get("jfif_density", (1,)))) > 1:
        notes.append("the aspect ratio of the pixels was left out")
    comment = image.tag_v2.get(_DESCRIPTION_TAG) if image.format == "TIFF" else info.get("comment")  # type: ignore[attr-defined]
    if comment:
        metadata.comment = comment if isinstance(comment, bytes) else str(comment).encode()
    if image.format == "PNG":
        for name, data in _chunks(path):
            if name in _KEPT or (name in _TEXTS and not data.startswith((_XMP_KEYWORD, b"Raw profile type exif"))):
                metadata.chunks.append((name, data))
    if image.format == "JPEG" and any(name == "APP2" and data[:4] == b"MPF\0" for name, data in image.applist):  # type: ignore[attr-defined]
        notes.append("further images in the file (a gain map for HDR, a preview) were left out")
    if image.format == "AVIF" and _is_deep_avif(path):
        notes.append("AVIF of more than 8 bits a sample was read with 8")
    return metadata, orientation if orientation in range(1, 9) else 1


def orientation_of(path: Path, image: ImageFile.ImageFile) -> int:
    """The EXIF orientation of an image, decoding it only where that is needed to know."""
    # getexif() of a PNG decodes the whole image, since EXIF data may follow it.
    if image.format == "PNG" and not any(name in (b"eXIf", *_TEXTS) for name, _ in _chunks(path)):
        return 1
    if image.format == "TIFF":  # Pillow applies it itself
        return 1
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data, as in `read_metadata`
        return 1


def png_chunks(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG file that hold the metadata."""
    # The specification forbids sRGB together with a profile.
    chunks = [chunk for chunk in metadata.chunks if metadata.icc is None or chunk[0] != b"sRGB"]
    if metadata.icc is not None:
        chunks.append(icc_chunk(metadata.icc))
    if metadata.dpi is not None and all(name != b"pHYs" for name, _ in chunks):
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / _INCH) for value in metadata.dpi), 1)))
    if metadata.comment is not None:
        text = metadata.comment.decode("utf-8", "replace").replace("\0", "").encode()
        chunks.append((b"iTXt", b"Comment\0\0\0\0\0" + text))
    if metadata.xmp is not None:
        chunks.append((b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + metadata.xmp))
    if metadata.exif is not None:
        chunks.append((b"eXIf", metadata.exif))
    return chunks


#: Bytes of EXIF data and of an XMP packet in a JPEG segment.
_JPEG_EXIF, _JPEG_XMP, _JPEG_COMMENT = 65_527, 65_504, 65_533
#: What each format but PNG can hold.
_HELD = {
    "JPEG": {"ICC profile", "EXIF data", "XMP data", "resolution", "comment"},
    "WEBP": {"ICC profile", "EXIF data", "XMP data"},
    "TIFF": {"ICC profile", "XMP data", "resolution", "comment"},
    "BMP": {"resolution"},
    "GIF": {"comment"},
}


def pillow_options(kind: str, metadata: Metadata) -> tuple[dict[str, Any], list[str]]:
    """The metadata as options of Pillow's `save` for a format other than PNG, and notes on what it cannot hold."""
    parts: dict[str, Any] = {
        "ICC profile": metadata.icc,
        "EXIF data": metadata.exif,
        "XMP data": metadata.xmp,
        "resolution": metadata.dpi,
        "comment": metadata.comment,
    }
    held = {name: value for name, value in parts.items() if value is not None and name in _HELD[kind]}
    if kind == "JPEG":
        for name, limit in (("EXIF data", _JPEG_EXIF), ("XMP data", _JPEG_XMP), ("comment", _JPEG_COMMENT)):
            if len(held.get(name, b"")) > limit:
                del held[name]
    lost = [name for name, value in parts.items() if value is not None and name not in held]
    chunks = {name for name, _ in metadata.chunks}
    if chunks & set(_TEXTS):
        lost.append("texts of the PNG file")
    if chunks & {b"cICP", b"mDCV", b"cLLI"}:
        lost.append("HDR metadata of the PNG file (colors may look dull)")
    elif metadata.icc is None and chunks & {b"gAMA", b"cHRM"} and b"sRGB" not in chunks:
        lost.append("gamma and chromaticities of the PNG file")
    options: dict[str, Any] = {}
    for name, value in held.items():
        if name == "ICC profile":
            options["icc_profile"] = value
        elif name == "EXIF data":
            options["exif"] = b"Exif\0\0" + value
        elif name == "resolution":
            options["dpi"] = value
        elif kind == "TIFF":
            options.setdefault("tiffinfo", {})[_XMP_TAG if name == "XMP data" else _DESCRIPTION_TAG] = value
        else:
            options["xmp" if name == "XMP data" else "comment"] = value
    return options, [f"{kind} cannot hold the {name}: left out" for name in lost]


def reset_exif_orientation(exif: bytes) -> bytes:
    """EXIF data with the orientation set to 1 and every other byte unchanged; unchanged where they are damaged."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return exif
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            if struct.unpack_from(f"{order}HHI", exif, at) == (_ORIENTATION, 3, 1):
                return exif[: at + 8] + struct.pack(f"{order}HH", 1, 0) + exif[at + 12 :]
    except struct.error:  # an offset beyond the end
        pass
    return exif


def _xmp(image: ImageFile.ImageFile) -> bytes | None:
    value = image.tag_v2.get(_XMP_TAG) if image.format == "TIFF" else image.info.get("xmp")  # type: ignore[attr-defined]
    value = value or image.info.get("XML:com.adobe.xmp")
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None


def _chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file that are kept, or tell the orientation. Ends where the file is damaged."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = int.from_bytes(head[:4]), head[4:]
            if name in (*_KEPT, *_TEXTS, b"eXIf"):
                # The header may claim any length.
                yield name, file.read(min(length, size - file.tell()))
                length = 0
            file.seek(length + 4, io.SEEK_CUR)


def _is_deep_avif(path: Path) -> bool:
    """Whether the codec's configuration says 10 or 12 bits ("AV1 Codec ISO Media File Format Binding", 2.3.3)."""
    with path.open("rb") as file:
        header = file.read(1 << 16)
    at = header.find(b"av1C")
    return 0 <= at < len(header) - 6 and bool(header[at + 6] & 0x40)
