"""Upscale image files and folders: decoding, network and encoding run in parallel, with bounded queues between."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastgan._util.options import option
from fastgan._util.progress import Progress
from fastgan.errors import FastganError, UsageError, WriteError
from fastgan.upscale.image import read
from fastgan.upscale.image.animation import animation_format, frame_count, upscale_animation
from fastgan.upscale.image.encoders import ENCODERS, EncoderPool, Job, JobResult
from fastgan.upscale.image.folder import FolderReport, jobs_of, written_name
from fastgan.upscale.image.inference import Upscaler, check_network, tile_policy, upscale_strips
from fastgan.upscale.image.write import check_size, output_format
from fastgan.upscale.thread_pipeline import ConsumerClosedError
from fastgan.upscale.tiles import TileGrid, TilePolicy, tile_grid


def upscale_image(
    session: Upscaler, source: str | Path, out: str | Path, *, tile: int | str = "auto", overwrite: bool = False
) -> dict[str, Any]:
    """Upscale one image file (PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF; gray, RGB, alpha; 8 or 16 bits), or an animation.

    session: a `fastgan.runtime.Session` of a network from images to images. source: the file to read. out: the file to
    write, in the format of its suffix; or a folder, for a file of the same name in it. tile: side of the tiles in
    input pixels, 0 for no tiles, "auto" for a side that fits the free memory. overwrite: replace an existing file.

    Returns a dictionary: "out" (the file written), "size" and "scaled_size" (height, width), "tiles" (their number),
    "tile" (their height and width), "seconds", and "notes" (sentences about what could not be kept).
    Raises UsageError for wrong arguments, DataError for a source that cannot be read or is too large for the format,
    WriteError where `out` cannot be written; an existing file is then unchanged.
    """
    source = Path(source)
    check_network(session.spec)
    policy = tile_policy(session, tile)
    out = destination(source, Path(out), overwrite)
    start = time.perf_counter()
    if frame_count(source) > 1:
        return _upscale_animation(session, source, out, policy, start)
    with EncoderPool() as encoders:
        image = _load(session, Job(source, out))
        grid = _grid(session, image, policy)
        progress = Progress(f"upscaling {source.name}", grid.count, unit="tiles")
        try:
            _upscale_into(session, encoders, Job(source, out), image, grid, progress.add)
            (result,) = encoders.results(0)
        finally:
            progress.close()
    if result.error is not None:
        raise result.error
    return _summary(out, grid, start, result.notes)


def _upscale_animation(session: Upscaler, source: Path, out: Path, policy: TilePolicy, start: float) -> dict[str, Any]:
    progress = Progress(f"upscaling {source.name}", None, unit="tiles")
    try:
        grid, notes = upscale_animation(session, source, out, policy, progress.add)
    finally:
        progress.close()
    return _summary(out, grid, start, notes)


def _summary(out: Path, grid: TileGrid, start: float, notes: list[str]) -> dict[str, Any]:
    return {
        "out": out,
        "size": (grid.rows.length, grid.columns.length),
        "scaled_size": (grid.rows.length * grid.scale, grid.columns.length * grid.scale),
        "tiles": grid.count,
        "tile": (grid.rows.tile, grid.columns.tile),
        "seconds": time.perf_counter() - start,
        "notes": notes,
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
) -> FolderReport:
    """Upscale every image in a folder and its sub-folders; names are kept.

    session, tile: as in `upscale_image`. An image that cannot be read or written is listed in the report, and the rest
    continues. Files in `out` that are complete and of the right size are skipped unless `overwrite`, so that an
    interrupted run can be repeated. suffix: appended to the stem of each name. format: "png", "jpg", ... for all
    images; None keeps the format of each, where it can be written, else PNG.
    Returns a FolderReport. Raises UsageError for wrong arguments, WriteError where the disk of `out` is full.
    """
    source, out = Path(source), Path(out)
    check_network(session.spec)
    policy = tile_policy(session, tile)
    start = time.perf_counter()
    report = FolderReport()
    jobs = jobs_of(session.spec.scale, source, out, overwrite, suffix, format, report)
    stills = [job for job in jobs if not job.animated]
    progress = Progress(f"upscaling {source.name}", len(jobs))

    def record(result: JobResult) -> None:
        if result.error is None:
            report.done += 1
            for note in result.notes:
                report.notes[note] = report.notes.get(note, 0) + 1
        elif isinstance(result.error, (UsageError, WriteError)) and not _of_one_file(result.error):
            raise result.error  # a full disk or an unwritable folder: all further images would fail too
        else:
            report.failed.append((result.job.source, str(result.error) or "there is not enough memory for it"))
        progress.add()

    # The encoders end first (they are entered last), so that an error does not wait for the decoder.
    with ThreadPoolExecutor(1, thread_name_prefix="fastgan-decode") as decoder, EncoderPool() as encoders:
        try:
            for job in (job for job in jobs if job.animated):
                try:
                    _, notes = upscale_animation(session, job.source, job.out, policy)
                    record(JobResult(job, notes))
                except (FastganError, MemoryError) as error:
                    record(JobResult(job, [], error))
            for job, loaded in _prefetched(decoder, lambda job: _load(session, job), stills):
                try:
                    image = loaded.result()
                    _upscale_into(session, encoders, job, image, _grid(session, image, policy))
                except (FastganError, MemoryError) as error:
                    record(JobResult(job, [], error))
                for result in encoders.results(ENCODERS):
                    record(result)
            for result in encoders.results(0):
                record(result)
        finally:
            progress.close()
    report.failed.sort()
    report.seconds = time.perf_counter() - start
    return report


def _of_one_file(error: FastganError) -> bool:
    """Whether a file could not be written because of its own name."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENAMETOOLONG, errno.EILSEQ)


def destination(source: Path, out: Path, overwrite: bool) -> Path:
    """The file to write for `source`. Raises UsageError where it is unusable, or exists and `overwrite` is False."""
    if not source.exists():
        raise UsageError(f"source: {source} does not exist")
    if source.is_dir():
        raise UsageError(f"source: expected an image file, got the folder {source}")
    if out.is_dir():
        out = out / written_name(source, frame_count(source) > 1)
    if frame_count(source) > 1:
        animation_format(source, out)
    else:
        output_format(out)
    if out.exists():
        if out.samefile(source):
            raise UsageError(f"out: expected another file than the source, got {out} for both")
        if out.is_dir():
            raise UsageError(f"out: {out} is a folder")
        if not overwrite:
            raise UsageError(f"out: {out} exists; {option('overwrite', True)} replaces it")
    return out


def _load(session: Upscaler, job: Job) -> read.DecodedImage:
    """Decode an image. Raises DataError here, before the network runs, where the result would be too large to write."""
    height, width = read.read_size(job.source)
    scale = session.spec.scale
    check_size(job.out, height * scale, width * scale, 1)
    image = read.read(job.source)
    height, width, channels = image.pixels.shape
    check_size(job.out, height * scale, width * scale, channels)
    return image


def _grid(session: Upscaler, image: read.DecodedImage, policy: TilePolicy) -> TileGrid:
    height, width = image.pixels.shape[:2]
    grid = tile_grid(height, width, session.spec, policy)
    if not grid.full_margin:
        image.notes.append("the tiles are small for this network: pixels along their edges may differ slightly")
    return grid


def _upscale_into(
    session: Upscaler,
    encoders: EncoderPool,
    job: Job,
    image: read.DecodedImage,
    grid: TileGrid,
    on_tile: Callable[[], None] = lambda: None,
) -> None:
    """Upscale an image and pass the rows of the result to an encoder."""
    height, width = grid.rows.length * grid.scale, grid.columns.length * grid.scale
    strips = encoders.start(job, height, width, image)
    try:
        for rows in upscale_strips(session, image.pixels, grid, on_tile):
            strips.put(rows)
        strips.finish()
    except ConsumerClosedError:
        pass  # the encoder has failed: `encoders.results` yields its error
    except BaseException:
        encoders.cancel_last()
        raise


def _prefetched(
    pool: ThreadPoolExecutor, work: Callable[[Job], read.DecodedImage], jobs: list[Job]
) -> Iterator[tuple[Job, Future[read.DecodedImage]]]:
    """Each job with the future of its image; the next image is decoded meanwhile."""
    following = pool.submit(work, jobs[0]) if jobs else None
    try:
        for i, job in enumerate(jobs):
            assert following is not None
            current, following = following, pool.submit(work, jobs[i + 1]) if i + 1 < len(jobs) else None
            yield job, current
    finally:
        if following is not None:
            following.cancel()
