"""fastgan upscale: an image, a folder of images or a video, made larger."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from fastgan.cli._parse import parse, positional
from fastgan.errors import DataError, UsageError

if TYPE_CHECKING:
    from fastgan.runtime.session import Session

_VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".y4m")
# How videos begin: MP4 and its kin, Matroska, AVI, Ogg, MPEG program streams, Flash, Windows Media, raw frames.
_VIDEO_BEGINNINGS = (
    (b"ftyp", 4),
    (b"\x1aE\xdf\xa3", 0),
    (b"AVI ", 8),
    (b"OggS", 0),
    (b"\0\0\x01\xba", 0),
    (b"FLV", 0),
    (b"0&\xb2u", 0),
    (b"YUV4MPEG2", 0),
)
# Still pictures in MP4's clothes.
_STILL = (b"avif", b"heic", b"heix", b"mif1")


@dataclass
class _Upscale:
    """Upscale an image, a folder of images or a video with a super-resolution network."""

    model: str = "realesr-animevideov3-x4"
    """a name that `fastgan models` lists, weights, or a file of fastgan export; this one is quick, and for drawings;
    realesrgan-x4plus is for photographs, and takes some thirty times as long"""
    tile: str = "auto"
    """images: side of the tiles in pixels; 0 for none; auto: what the free memory allows"""
    overwrite: bool = False
    """replace files that are there; otherwise a folder's are skipped where they are whole"""
    suffix: str = ""
    """folders: added to every name, before its ending"""
    format: str | None = None
    """folders: png, jpg, webp, tiff or bmp for all images; otherwise each keeps its own"""
    batch: str = "auto"
    """videos: frames that the network takes at once"""
    codec: str = "auto"
    """videos: h264, hevc, av1 or vp9"""
    crf: int | None = None
    """videos: constant quality, 0 being the best"""
    backend: str = "auto"
    """library that runs the network: onnxruntime, openvino, torch, compile; auto: the fastest, measured once"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..."""


_FOR = {
    "tile": ("image", "folder"),
    "suffix": ("folder",),
    "format": ("folder",),
    "batch": ("video",),
    "codec": ("video",),
    "crf": ("video",),
}


def upscale(argv: list[str]) -> None:
    """fastgan upscale IN OUT [--model NAME|FILE] [--tile N] [--overwrite] ..."""
    word, rest = positional(argv, "upscale", "IN OUT", _Upscale)
    source = Path(word)
    word, rest = positional(rest, "upscale", "IN and OUT", _Upscale)
    out = Path(word)
    options = parse(_Upscale, rest, "upscale")
    kind = kind_of(source)
    for option in fields(_Upscale):
        kinds = _FOR.get(option.name, (kind,))
        if kind not in kinds and getattr(options, option.name) != option.default:
            raise UsageError(f"{option.name}: is for {'s and '.join(kinds)}s, and {source} is none")
    {"image": _image, "folder": _folder, "video": _video}[kind](source, out, options)


def kind_of(source: Path) -> str:
    """ "image", "folder" or "video", by content; the name counts only where that says nothing.

    Raises UsageError where there is nothing, DataError for a file that is neither.
    """
    if source.is_dir():
        return "folder"
    if not source.exists():
        raise UsageError(f"source: there is no {source}")
    from fastgan.upscale.image.read import image_format
    from fastgan.upscale.image.write import FORMATS

    if image_format(source) is not None:
        return "image"
    with source.open("rb") as file:
        start = file.read(16)
    if start[4:8] == b"ftyp" and start[8:12] in _STILL:
        raise DataError(
            f"{source} is an {start[8:12].decode().upper()} picture, which is not supported; convert it to PNG"
        )
    if any(start[at : at + len(word)] == word for word, at in _VIDEO_BEGINNINGS):
        return "video"
    suffix = source.suffix.lower()
    if suffix in FORMATS:
        return "image"  # a damaged one: reading it says so
    if suffix in _VIDEO_SUFFIXES:
        return "video"
    raise DataError(f"{source} is neither an image nor a video that is known here")


def _image(source: Path, out: Path, options: _Upscale) -> None:
    from fastgan.upscale.images import destination, upscale_image

    tile = _number("tile", options.tile)
    destination(source, out, options.overwrite)  # before the model is opened, which may take its time
    session = _open(options)
    done = upscale_image(session, source, out, tile=tile, overwrite=options.overwrite)
    sizes = [f"{width}×{height}" for height, width in (done["size"], done["scaled_size"])]
    how = f", {done['tiles']} tiles of {done['tile'][1]}×{done['tile'][0]}" if done["tiles"] > 1 else ""
    for note in done["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(f"{sizes[0]} → {sizes[1]} in {done['seconds']:.1f} s{how} ({_where(session)}): {done['out']}")


def _folder(source: Path, out: Path, options: _Upscale) -> None:
    from fastgan.upscale.image.folder import check_folders
    from fastgan.upscale.images import upscale_folder

    tile = _number("tile", options.tile)
    check_folders(source, out, options.format)
    session = _open(options)
    report = upscale_folder(
        session, source, out, tile=tile, overwrite=options.overwrite, suffix=options.suffix, format=options.format
    )
    for note, count in report.notes.items():
        print(f"note: {note} ({count} images)", file=sys.stderr)
    for path, reason in report.failed:
        print(f"failed: {path}: {reason}", file=sys.stderr)
    there = f", {report.skipped} were there" if report.skipped else ""
    others = f", {report.others} other files left alone" if report.others else ""
    print(f"{report.done} images in {report.seconds:.1f} s{there}{others} ({_where(session)}): {out}")
    if report.failed:
        names = ", ".join(str(path) for path, _ in report.failed[:3]) + (", ..." if len(report.failed) > 3 else "")
        raise DataError(f"{len(report.failed)} of the images could not be upscaled: {names}")
    if not report.done and not report.skipped:
        raise DataError(f"there is no image in {source}")


def _video(source: Path, out: Path, options: _Upscale) -> None:
    from fastgan._util.hashing import file_sha256
    from fastgan.upscale.video import upscale_video

    batch = _number("batch", options.batch)
    session = _open(options)
    model = file_sha256(session.model) if isinstance(session.model, Path) else options.model
    done = upscale_video(
        session,
        source,
        out,
        batch=batch,
        codec=options.codec,
        crf=options.crf,
        overwrite=options.overwrite,
        model=model,
    )
    print(f"{done['frames']} frames at {done['fps']:.1f} per second ({_where(session)}): {out}")


def _open(options: _Upscale) -> Session:
    from fastgan.upscale.upscaler import open_upscaler

    return open_upscaler(options.model, backend=options.backend, device=options.device)


def _where(session: Session) -> str:
    return f"{session.backend}, {session.provider}"


def _number(name: str, word: str) -> int | str:
    """ "auto", or a number."""
    if word == "auto":
        return word
    try:
        return int(word)
    except ValueError:
        raise UsageError(f"{name}: expected auto or a number, got {word!r}") from None
