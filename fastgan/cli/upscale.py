"""fastgan upscale: upscale an image, a folder of images or a video."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fastgan._util.output import printable
from fastgan.cli._parse import parse
from fastgan.errors import DataError, UsageError

if TYPE_CHECKING:
    from fastgan.runtime.session import Session

_VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".y4m")
# Signatures and their offsets: MP4 and MOV, Matroska, AVI, Ogg, MPEG program streams, Flash, Windows Media, YUV4MPEG.
_VIDEO_SIGNATURES = (
    (b"ftyp", 4),
    (b"\x1aE\xdf\xa3", 0),
    (b"AVI ", 8),
    (b"OggS", 0),
    (b"\0\0\x01\xba", 0),
    (b"FLV", 0),
    (b"0&\xb2u", 0),
    (b"YUV4MPEG2", 0),
)
# Still images in MP4's container format, of which AVIF is read.
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1")


@dataclass
class _Upscale:
    """Upscale an image, a folder of images or a video with a super-resolution network."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """image, folder of images or video"""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """file or folder to write"""
    model: str = "realesr-animevideov3-x4"
    """a name that `fastgan models list` prints, weights, a run, or a file of fastgan export; the default is fast and
    for drawings; realesrgan-x4plus is for photographs, and about thirty times slower"""
    tile: str = "auto"
    """images: side of the tiles in pixels; 0: no tiles; auto: by the free memory"""
    overwrite: bool = False
    """replace existing files; otherwise complete files of a folder are skipped"""
    suffix: str = ""
    """folders: appended to the stem of every file name"""
    format: str | None = None
    """folders: png, jpg, webp, tiff or bmp for all images; by default each keeps its own"""
    batch: str = "auto"
    """videos: number of frames that the network takes at once"""
    codec: str = "auto"
    """videos: h264, hevc, av1 or vp9"""
    crf: int | None = None
    """videos: constant rate factor, 0 is the best quality"""
    backend: str = "auto"
    """library that runs the network, by its name in `fastgan doctor`; auto: the fastest, by a measurement"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..."""
    trust: tyro.conf.FlagCreatePairsOff[bool] = False
    """open .pt2 files, whose native code runs with your rights: only those that you trust"""


# Options for some kinds of input only.
_KINDS = {
    "tile": ("image", "folder"),
    "suffix": ("folder",),
    "format": ("folder",),
    "batch": ("video",),
    "codec": ("video",),
    "crf": ("video",),
}


def upscale(argv: list[str]) -> None:
    """fastgan upscale IN OUT [--model NAME|FILE] [--tile N] [--overwrite] ..."""
    options = parse(_Upscale, argv, "upscale")
    source = options.source
    kind = kind_of(source)
    for option in fields(_Upscale):
        kinds = _KINDS.get(option.name, (kind,))
        if kind not in kinds and getattr(options, option.name) != option.default:
            raise UsageError(f"{option.name}: is for {'s and '.join(kinds)}s only, got the {kind} {source}")
    {"image": _image, "folder": _folder, "video": _video}[kind](options)


def kind_of(source: Path) -> str:
    """The kind of the input: "image", "folder" or "video", by content, and where that is unknown by the suffix.

    Raises UsageError where it does not exist, DataError for any other file.
    """
    if source.is_dir():
        return "folder"
    if not source.exists():
        raise UsageError(f"source: {source} does not exist")
    from fastgan.upscale.image.read import can_read
    from fastgan.upscale.image.write import FORMATS

    if can_read(source):
        return "image"
    with source.open("rb") as file:
        start = file.read(16)
    if start[4:8] == b"ftyp" and start[8:12] in _STILL_BRANDS:
        raise DataError(
            f"{source} is an {start[8:12].decode().upper()} image, which is not supported; convert it to PNG"
        )
    if any(start[at : at + len(word)] == word for word, at in _VIDEO_SIGNATURES):
        return "video"
    suffix = source.suffix.lower()
    if suffix in FORMATS:
        return "image"  # damaged: reading it raises an error
    if suffix in _VIDEO_SUFFIXES:
        return "video"
    raise DataError(f"{source} is neither an image nor a video in a supported format")


def _image(options: _Upscale) -> None:
    from fastgan.upscale.images import destination, upscale_image

    tile = _number("tile", options.tile)
    destination(options.source, options.out, options.overwrite)  # before the model is opened, which may take long
    session = _open(options)
    done = upscale_image(session, options.source, options.out, tile=tile, overwrite=options.overwrite)
    sizes = [f"{width}×{height}" for height, width in (done["size"], done["scaled_size"])]
    tiles = f", {done['tiles']} tiles of {done['tile'][1]}×{done['tile'][0]}" if done["tiles"] > 1 else ""
    for note in done["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(f"{sizes[0]} → {sizes[1]} in {done['seconds']:.1f} s{tiles} ({_runtime(session)}): {done['out']}")


def _folder(options: _Upscale) -> None:
    from fastgan.upscale.image.folder import check_folders
    from fastgan.upscale.images import upscale_folder

    source, out, tile = options.source, options.out, _number("tile", options.tile)
    check_folders(source, out, options.format)
    session = _open(options)
    report = upscale_folder(
        session, source, out, tile=tile, overwrite=options.overwrite, suffix=options.suffix, format=options.format
    )
    for note, count in report.notes.items():
        print(f"note: {note} ({count} images)", file=sys.stderr)
    for path, reason in report.failed:
        print(f"failed: {printable(path)}: {printable(reason)}", file=sys.stderr)
    skipped = f", {report.skipped} skipped" if report.skipped else ""
    ignored = f", {len(report.ignored)} other files passed over" if report.ignored else ""
    if report.ignored:
        shown = ", ".join(path.name for path in report.ignored[:3]) + (", ..." if len(report.ignored) > 3 else "")
        print(f"note: not an image in a format that can be read: {shown}", file=sys.stderr)
    print(f"{report.done} images in {report.seconds:.1f} s{skipped}{ignored} ({_runtime(session)}): {out}")
    if report.failed:
        names = ", ".join(printable(path) for path, _ in report.failed[:3]) + (
            ", ..." if len(report.failed) > 3 else ""
        )
        raise DataError(f"{len(report.failed)} of the images could not be upscaled: {names}")
    if not report.done and not report.skipped:
        raise DataError(f"{source} contains no image")


def _video(options: _Upscale) -> None:
    from fastgan._util.hashing import file_sha256
    from fastgan.upscale.video import upscale_video

    batch = _number("batch", options.batch)
    session = _open(options)
    model = file_sha256(session.model) if isinstance(session.model, Path) else options.model
    done = upscale_video(
        session,
        options.source,
        options.out,
        batch=batch,
        codec=options.codec,
        crf=options.crf,
        overwrite=options.overwrite,
        model=model,
    )
    print(f"{done['frames']} frames at {done['fps']:.1f} per second ({_runtime(session)}): {options.out}")


def _open(options: _Upscale) -> Session:
    from fastgan.cli._source import model_of
    from fastgan.upscale.upscaler import open_upscaler

    return open_upscaler(model_of(options.model), backend=options.backend, device=options.device, trust=options.trust)


def _runtime(session: Session) -> str:
    return f"{session.backend}, {session.provider}"


def _number(name: str, word: str) -> int | str:
    """The value of an option that is "auto" or an integer."""
    if word == "auto":
        return word
    try:
        return int(word)
    except ValueError:
        raise UsageError(f"{name}: expected auto or a number, got {word!r}") from None
