"""The images of a folder: which are upscaled to which files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastgan.errors import DataError, UsageError
from fastgan.upscale.image import read
from fastgan.upscale.image.encoders import Job
from fastgan.upscale.image.write import FORMATS, is_complete


@dataclass
class FolderReport:
    """The result of `upscale_folder`.

    done, skipped: number of images that were written, and that existed already. failed: the other images, with the
    reason. notes: what could not be kept → number of images. ignored: number of files that are not images. seconds:
    total time.
    """

    done: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    ignored: int = 0
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
    jobs: dict[Path, Job] = {}
    for file in sorted(source.rglob("*")):
        inner = file.relative_to(source)
        if out.resolve() in file.resolve().parents or any(part.startswith(".") for part in inner.parts):
            continue
        if not file.is_file():
            continue
        try:
            if read.image_format(file) is None and file.suffix.lower() not in FORMATS:
                report.ignored += 1
                continue
        except DataError as error:
            if file.suffix.lower() in FORMATS:
                report.failed.append((file, str(error)))
            else:
                report.ignored += 1
            continue
        job = Job(file, out / inner.parent / written_name(inner.name, suffix, format))
        if job.out in jobs:
            raise UsageError(f"source: {file} and {jobs[job.out].source} would both become {job.out}")
        jobs[job.out] = job
    found = {(facts.st_dev, facts.st_ino) for facts in (job.source.stat() for job in jobs.values())}
    for job in [job for job in jobs.values() if job.out.exists()]:
        if ((facts := job.out.stat()).st_dev, facts.st_ino) in found:
            report.failed.append((job.source, f"{job.out} is one of the sources, which are never written over"))
            del jobs[job.out]
    return [job for job in jobs.values() if _is_pending(scale, job, overwrite, report)]


def _is_pending(scale: int, job: Job, overwrite: bool, report: FolderReport) -> bool:
    if overwrite or not job.out.exists():
        return True
    try:
        height, width = read.read_size(job.source)
    except DataError as error:
        report.failed.append((job.source, str(error)))
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
        report.failed.append(
            (job.source, f"{job.out} exists with another size, {size[1]}×{size[0]}; --overwrite replaces it")
        )
    return False


def written_name(name: str, suffix: str = "", format: str | None = None) -> str:
    """The file name of the result: the same, where its format can be written, else as PNG."""
    path = Path(name)
    ending = f".{format}" if format else path.suffix if path.suffix.lower() in FORMATS else ".png"
    return f"{path.stem}{suffix}{ending}"
