"""The images of a folder: which are upscaled to which files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fastgan._util.options import option
from fastgan.errors import DataError, UsageError
from fastgan.upscale.image import read
from fastgan.upscale.image.animation import frame_count
from fastgan.upscale.image.encoders import Job
from fastgan.upscale.image.write import ANIMATED, FORMATS, is_complete


@dataclass
class FolderReport:
    """The result of `upscale_folder`.

    done, skipped: number of images that were written, and that existed already. failed: the other images, with the
    reason. notes: what could not be kept → number of images. ignored: the files that are not images in a format that
    can be read. seconds: total time.
    """

    done: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    ignored: list[Path] = field(default_factory=list)
    seconds: float = 0.0


def check_folders(source: Path, out: Path, format: str | None) -> None:
    """Raise UsageError where `source` is no folder, `out` is unusable or `format` is unknown."""
    if not source.is_dir():
        raise UsageError(f"source: expected a folder, got {source}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"out: expected a folder for the images of {source}, got the file {out}")
    if out.resolve() == source.resolve():
        raise UsageError(f"out: expected another folder than the source, got {out} for both")
    if format is not None and f".{format}" not in FORMATS:
        raise UsageError(f"format: expected {', '.join(name[1:] for name in FORMATS)}, got {format}")


def jobs_of(
    scale: int, source: Path, out: Path, overwrite: bool, suffix: str, format: str | None, report: FolderReport
) -> list[Job]:
    """The jobs of a folder; images that are skipped or fail already are entered into the report."""
    check_folders(source, out, format)
    files = [file for file in sorted(source.rglob("*")) if _is_image(file, source, out, report)]
    animated = {file: _is_animated(file) for file in files}
    names = {
        file: out / file.relative_to(source).parent / written_name(file, animated[file], suffix, format)
        for file in files
    }
    counts = Counter(names.values())
    jobs: dict[Path, Job] = {}
    for file, name in names.items():
        # a.gif beside a.png becomes a.gif.png.
        if counts[name] > 1 and name.suffix != file.suffix:
            name = name.with_name(f"{file.name}{suffix}{name.suffix}")
        if name in jobs:
            raise UsageError(f"source: {file} and {jobs[name].source} would both become {name}")
        jobs[name] = Job(file, name, animated[file])
    sources = {(facts.st_dev, facts.st_ino) for facts in (file.stat() for file in files)}
    return [job for job in jobs.values() if _is_pending(scale, job, sources, overwrite, report)]


def _is_image(file: Path, source: Path, out: Path, report: FolderReport) -> bool:
    """Whether a file of the source is an image to upscale. Others are entered into the report, but for hidden ones."""
    inner = file.relative_to(source)
    if out.resolve() in file.resolve().parents or any(part.startswith(".") for part in inner.parts):
        return False
    if not file.is_file():
        return False
    try:
        if read.can_read(file) or file.suffix.lower() in FORMATS:  # a damaged image fails when it is read
            return True
    except DataError as error:
        if file.suffix.lower() in FORMATS:
            report.failed.append((file, str(error)))
            return False
    report.ignored.append(file)
    return False


def _is_pending(scale: int, job: Job, sources: set[tuple[int, int]], overwrite: bool, report: FolderReport) -> bool:
    try:
        if not job.out.exists():
            return True
        if ((facts := job.out.stat()).st_dev, facts.st_ino) in sources:
            report.failed.append((job.source, f"{job.out} is one of the sources, which are never written over"))
            return False
        if overwrite:
            return True
        height, width = read.read_size(job.source)
    except DataError as error:
        report.failed.append((job.source, str(error)))
        return False
    except OSError as error:  # a name that is too long
        report.failed.append((job.source, f"{job.out} cannot be written: {error.strerror or error}"))
        return False
    try:
        size = read.read_size(job.out)
    except DataError:
        return True
    if not is_complete(job.out):
        return True
    if size == (height * scale, width * scale):
        report.skipped += 1
    else:
        replacing = f"{option('overwrite', True)} replaces it"
        report.failed.append((job.source, f"{job.out} exists with another size, {size[1]}×{size[0]}; {replacing}"))
    return False


def written_name(source: Path, animated: bool, suffix: str = "", format: str | None = None) -> str:
    """The file name of the result: the same, where its format can be written, else as PNG."""
    ending = source.suffix if source.suffix.lower() in (ANIMATED if animated else FORMATS) else ".png"
    return f"{source.stem}{suffix}{f'.{format}' if format else ending}"


def _is_animated(path: Path) -> bool:
    try:
        return frame_count(path) > 1
    except DataError:  # reading it gives the reason
        return False
