"""Translate image files with a network from images to images of the same size, such as pix2pix's and CycleGAN's.

Pictures are never split into tiles: instance norms see the whole image, so that the tiles of one picture would differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fastgan._util.memory import free_host_memory
from fastgan._util.options import option
from fastgan._util.progress import Progress
from fastgan.errors import DataError, FastganError, UsageError
from fastgan.runtime.spec import Spec
from fastgan.upscale.image import read
from fastgan.upscale.image.animation import frame_count
from fastgan.upscale.image.folder import written_name
from fastgan.upscale.image.inference import Upscaler
from fastgan.upscale.image.write import FORMATS, make_folder, output_format, write
from fastgan.upscale.tiles import policy_for_memory


@dataclass
class Translated:
    """The result of `translate`: files that were written, sources that were skipped as their file existed, failures."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


def check_translator(spec: Spec) -> None:
    """Raise UsageError unless a network makes images of the same size from images, of one or three channels both."""
    if spec.kind != "image" or spec.scale != 1 or spec.classes:
        raise UsageError(f"model: expected a network from images to images of the same size, got {spec.describe()}")
    if spec.channels not in (1, 3) or spec.result_channels not in (1, 3):
        raise UsageError(f"model: expected a network of 1 or 3 channels, got {spec.describe()}")


def translate(
    session: Upscaler, source: str | Path, out: str | Path, *, size: int | None = None, overwrite: bool = False
) -> Translated:
    """Translate an image file, or every image in a folder and its sub-folders, whose names are kept.

    session: a `fastgan.runtime.Session` of such a network; see `check_translator`. Pictures are converted to its colors
    (gray or RGB; alpha is dropped) and 8 bits. size: pictures with a longer side are reduced to it first, in pixels;
    None keeps their sizes. out: of a file the file to write, or a folder; of a folder a folder. Existing files are an
    error for a single file, and skipped in folders, unless overwrite. In folders a picture that cannot be read or
    written is listed as failed, and the rest continues.

    Raises UsageError for wrong arguments, and for a single file DataError where it cannot be read or is too large for
    the free memory, WriteError where `out` cannot be written; an existing file is then unchanged.
    """
    source, out = Path(source), Path(out)
    check_translator(session.spec)
    if size is not None and size < 1:
        raise UsageError(f"size: expected a number >= 1, got {size}")
    found = Translated()
    if not source.is_dir():
        _one(session, source, destination(source, out, overwrite), size, found)
        return found
    jobs = jobs_of(source, out, overwrite, found)
    progress = Progress(f"translating {source.name}", len(jobs))
    try:
        for file, name in jobs:
            try:
                _one(session, file, name, size, found)
            except (FastganError, MemoryError) as error:
                found.failed.append((file, str(error) or "there is not enough memory for it"))
            progress.add()
    finally:
        progress.close()
    return found


def destination(source: Path, out: Path, overwrite: bool) -> Path:
    """The file to write for one picture. Raises UsageError where it is unusable, or exists and `overwrite` is False."""
    if not source.is_file():
        raise UsageError(f"source: {source} does not exist")
    if out.is_dir():
        out = out / written_name(source, False)
    output_format(out)
    if out.exists():
        if out.samefile(source):
            raise UsageError(f"out: expected another file than the source, got {out} for both")
        if not overwrite:
            raise UsageError(f"out: {out} exists; {option('overwrite', True)} replaces it")
    return out


def jobs_of(source: Path, out: Path, overwrite: bool, found: Translated) -> list[tuple[Path, Path]]:
    """The pictures of a folder with the files to write; those that exist are entered as skipped.

    Raises UsageError for an unusable folder, two pictures of one name, and a folder without pictures.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"out: expected a folder for the images of {source}, got the file {out}")
    inside = out.resolve()
    if inside == source.resolve():
        raise UsageError(f"out: expected another folder than the source, got {out} for both")
    files = [
        file
        for file in sorted(source.rglob("*"))
        if file.is_file() and inside not in file.resolve().parents and _is_image(file)
    ]
    if not files:
        raise UsageError(f"source: expected a folder of images, got none in {source}")
    names: dict[Path, Path] = {}
    for file in files:
        name = out / file.relative_to(source).parent / written_name(file, False)
        if name in names:
            raise UsageError(f"source: {file} and {names[name]} would both become {name}")
        names[name] = file
    own = {file.resolve() for file in files}
    jobs = []
    for name, file in names.items():
        if name.exists() and name.resolve() in own:
            found.failed.append((file, f"{name} is one of the sources, which are never written over"))
        elif name.exists() and not overwrite:
            found.skipped.append(file)
        else:
            jobs.append((file, name))
    return jobs


def _is_image(file: Path) -> bool:
    try:
        return file.suffix.lower() in FORMATS or read.can_read(file)
    except DataError:
        return False


def _one(session: Upscaler, source: Path, out: Path, size: int | None, found: Translated) -> None:
    if frame_count(source) > 1:
        raise DataError(f"{source} is an animation; expected a picture")
    image = read.read(source)
    pixels, notes = _colors(image.pixels, session.spec.channels)
    if size is not None and max(pixels.shape[:2]) > size:
        pixels = _reduced(pixels, size)
    height, width = pixels.shape[:2]
    if session.fixed is not None and session.fixed != (height, width):
        raise DataError(
            f"{source} is {width}×{height}; this model takes images of {session.fixed[1]}×{session.fixed[0]} only"
        )
    most = (
        policy_for_memory(session.spec, free_host_memory()).max_untiled if session.device == "cpu" else height * width
    )
    if height * width > most:
        raise DataError(
            f"{source} is {width}×{height}, which may take more than the free memory ({most:,} pixels); reduce it with"
            f" {option('size', int(most**0.5))}"
        )
    result = session.pixels(np.ascontiguousarray(pixels)[None])[0]
    kept = image.metadata if result.shape[2] == image.pixels.shape[2] else read.Metadata()
    make_folder(out)
    notes += image.notes + write(out, height, width, [result], read.DecodedImage(result, kept))
    for note in notes:
        found.notes[note] = found.notes.get(note, 0) + 1
    found.written.append(out)


def _colors(pixels: np.ndarray, channels: int) -> tuple[np.ndarray, list[str]]:
    """uint8 [H, W, channels] of a decoded image, and what was lost."""
    notes = []
    if pixels.dtype == np.uint16:
        notes.append("the picture was rounded from 16 bits to 8")
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if pixels.shape[2] in (2, 4):
        if (pixels[..., -1] != 255).any():
            notes.append("alpha was dropped")
        pixels = pixels[..., :-1]
    if pixels.shape[2] == channels:
        return pixels, notes
    if channels == 3:
        return pixels.repeat(3, 2), notes
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None], notes


def _reduced(pixels: np.ndarray, size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = size / max(height, width)
    shape = (max(round(width * factor), 1), max(round(height * factor), 1))
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(image.resize(shape, Image.Resampling.LANCZOS)).reshape(shape[1], shape[0], -1)
