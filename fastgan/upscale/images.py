"""Image files and folders through a session: decoding, network and encoding overlap, and wait for one another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastgan._util.progress import Progress
from fastgan.errors import FastganError, UsageError, WriteError
from fastgan.upscale import tiles
from fastgan.upscale.image import read
from fastgan.upscale.image.encoders import ENCODERS, Encoders, Job, Settled
from fastgan.upscale.image.enlarge import Upscaler, check_network, cutting, enlarge
from fastgan.upscale.image.folder import Report, jobs_of, written_name
from fastgan.upscale.image.write import check_size, output_format


def upscale_image(
    session: Upscaler, source: str | Path, out: str | Path, *, tile: int | str = "auto", overwrite: bool = False
) -> dict[str, Any]:
    """Upscale one image file.

    out: the file to write, its format given by its suffix; or a folder, for the same name in it. tile: side of the
    tiles in pixels of the source, 0 for none, or "auto" for what the free memory allows. Returns the file written
    ("out"), "size" and "scaled_size" (height, width), how many "tiles" of which size ("tile"), "seconds", and "notes":
    what could not be kept.
    Raises UsageError for what cannot be asked, DataError for a source that cannot be read or is too large for the
    format, WriteError where `out` cannot be written; then there is no file of that name, or the one that was.
    """
    source = Path(source)
    check_network(session.spec)
    cut = cutting(session, tile)
    out = destination(source, Path(out), overwrite)
    start = time.perf_counter()
    with Encoders() as encoders:
        picture = _load(session, Job(source, out))
        plan = _plan(session, picture, cut)
        counter = Progress(f"upscaling {source.name}", plan.tiles, unit="tiles")
        try:
            _through(session, encoders, Job(source, out), picture, plan, counter.add)
            (settled,) = encoders.settled(0)
        finally:
            counter.close()
    if settled.error is not None:
        raise settled.error
    return {
        "out": out,
        "size": (plan.rows.length, plan.columns.length),
        "scaled_size": (plan.rows.length * plan.scale, plan.columns.length * plan.scale),
        "tiles": plan.tiles,
        "tile": (plan.rows.tile, plan.columns.tile),
        "seconds": time.perf_counter() - start,
        "notes": settled.notes,
    }


def upscale_folder(
    session: Upscaler,
    source: str | Path,
    out: str | Path,
    *,
    tile: int | str = "auto",
    overwrite: bool = False,
    suffix: str = "",
    format: str | None = None,
) -> Report:
    """Upscale every image in a folder and the folders below it; names are kept.

    An image that cannot be read or written is listed in the report, and the others go on. Files of `out` that are there
    already, whole and of the right size, are skipped unless overwrite: so a run that was interrupted goes on.
    suffix: added to the names' stems. format: "png", "jpg", ... for all; otherwise each image keeps its own, where that
    can be written. Raises UsageError for what cannot be asked, WriteError where `out` takes nothing more.
    """
    source, out = Path(source), Path(out)
    check_network(session.spec)
    cut = cutting(session, tile)
    start = time.perf_counter()
    report = Report()
    jobs = jobs_of(session.spec.scale, source, out, overwrite, suffix, format, report)
    counter = Progress(f"upscaling {source.name}", len(jobs))

    def settle(settled: Settled) -> None:
        if settled.error is None:
            report.done += 1
            for note in settled.notes:
                report.notes[note] = report.notes.get(note, 0) + 1
        elif isinstance(settled.error, (UsageError, WriteError)):
            raise settled.error  # the disk is full, or the folder not ours: the next would fare no better
        else:
            report.failed.append((settled.job.source, str(settled.error) or "there is not enough memory for it"))
        counter.add()

    # Encoders last: they end first, and nobody waits for a decoder whose picture is not wanted any more.
    with ThreadPoolExecutor(1, thread_name_prefix="fastgan-decode") as decoder, Encoders() as encoders:
        try:
            for job, loaded in _ahead(decoder, lambda job: _load(session, job), jobs):
                try:
                    picture = loaded.result()
                    plan = _plan(session, picture, cut)
                    _through(session, encoders, job, picture, plan)
                except (FastganError, MemoryError) as error:
                    settle(Settled(job, [], error))
                for settled in encoders.settled(ENCODERS):
                    settle(settled)
            for settled in encoders.settled(0):
                settle(settled)
        finally:
            counter.close()
    report.failed.sort()
    report.seconds = time.perf_counter() - start
    return report


def destination(source: Path, out: Path, overwrite: bool) -> Path:
    """The file that `source` becomes. Raises UsageError where that cannot be, or is there and shall stay."""
    if not source.exists():
        raise UsageError(f"source: there is no {source}")
    if source.is_dir():
        raise UsageError(f"source: expected an image file, got the folder {source}")
    if out.is_dir():
        out = out / written_name(source.name)
    output_format(out)
    if out.exists():
        if out.samefile(source):
            raise UsageError(f"out: expected another file than the source, got {out} for both")
        if out.is_dir():
            raise UsageError(f"out: {out} is a folder")
        if not overwrite:
            raise UsageError(f"out: {out} exists; --overwrite replaces it")
    return out


def _load(session: Upscaler, job: Job) -> read.Picture:
    """Decode, and refuse what could not be written before the network has worked for it."""
    height, width = read.read_size(job.source)
    scale = session.spec.scale
    check_size(job.out, height * scale, width * scale, 1)
    picture = read.read(job.source)
    height, width, channels = picture.pixels.shape
    check_size(job.out, height * scale, width * scale, channels)
    return picture


def _plan(session: Upscaler, picture: read.Picture, cut: tiles.Cutting) -> tiles.Plan:
    height, width = picture.pixels.shape[:2]
    plan = tiles.plan(height, width, session.spec, cut)
    if not plan.safe:
        picture.notes.append("the tiles are small for this network: what lies along their edges may differ a little")
    return plan


def _through(
    session: Upscaler,
    encoders: Encoders,
    job: Job,
    picture: read.Picture,
    plan: tiles.Plan,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Hand the rows of an enlarged picture to an encoder as they come."""
    height, width = plan.rows.length * plan.scale, plan.columns.length * plan.scale
    strips = encoders.begin(job, height, width, picture)
    try:
        for rows in enlarge(session, picture.pixels, plan, tick):
            if not strips.put(rows):
                break  # the encoder has failed; its error is among what is settled
        strips.end()
    except BaseException:
        encoders.forget()
        raise


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Job], read.Picture], jobs: list[Job]
) -> Iterator[tuple[Job, Future[read.Picture]]]:
    """Each job with its result to come; the next one is worked on while this one is in use."""
    following = pool.submit(work, jobs[0]) if jobs else None
    try:
        for i, job in enumerate(jobs):
            assert following is not None
            current, following = following, pool.submit(work, jobs[i + 1]) if i + 1 < len(jobs) else None
            yield job, current
    finally:
        if following is not None:
            following.cancel()
