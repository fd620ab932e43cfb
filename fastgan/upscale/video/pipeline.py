"""`upscale_video`: arguments, settings, resuming and stopping; the work itself is done by `Stages`."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fastgan._util.files import overwritable
from fastgan._util.progress import Progress
from fastgan.errors import DataError, UsageError
from fastgan.upscale.video.color import MATRICES, PC
from fastgan.upscale.video.decode import VideoSource
from fastgan.upscale.video.encode import EncodeSettings, check_crf, choose_codec, pixel_format
from fastgan.upscale.video.join import join_segments
from fastgan.upscale.video.segments import SegmentStore, identity
from fastgan.upscale.video.stages import Stages

_logger = logging.getLogger(__name__)

#: Approximate length of a segment: the work that a kill loses at most; each segment starts with a key frame.
SEGMENT_SECONDS = 4
_MAX_SEGMENT = 240  # frames
#: Approximate number of pixels of an automatic batch: single small frames do not use the hardware fully.
BATCH_PIXELS = 1_000_000
_MAX_BATCH = 16


def upscale_video(
    session: Any,
    source: str | Path,
    out: str | Path,
    *,
    batch: int | str = "auto",
    codec: str = "auto",
    crf: int | None = None,
    overwrite: bool = False,
    model: str = "",
    progress: Callable[[int, int | None], object] | None = None,
) -> dict[str, Any]:
    """Upscale a video; audio, subtitles, times, colors, pixel aspect and rotation are kept.

    session: has `spec` (an image network of 3 channels) and `pixels`, from uint8 [N, H, W, 3] to [N, s·H, s·W, 3].
    out: ends in .mp4, .mkv, .mov or .webm. batch: number of frames that the network takes at once, "auto": by their
    size. codec: h264, hevc, av1, vp9; "auto": the first that container and PyAV support. crf: constant rate factor, 0
    is the best; None: the codec's default. overwrite: replace an existing file. model: identifies the model, such as
    its checksum; a run with another one is not resumed. progress: called with the number of finished frames and the
    approximate total (None: unknown), instead of the progress bar.

    Returns a dictionary: "frames" (in the file), "resumed" (of them, finished by earlier runs), "seconds" and "fps" of
    this call, and "busy": the fraction of that time in which each stage worked.

    The work is stored in the folder OUT.parts, in segments of some seconds. After a kill, the same call resumes it,
    with the same result. Ctrl-C or SIGTERM finishes the current segment, writes the finished frames as OUT.partial
    (with OUT's suffix) and raises KeyboardInterrupt; a second Ctrl-C stops at once. A source that is damaged further on
    raises DataError, with the frames before the damage in OUT.partial. OUT itself is written atomically.
    Raises UsageError for wrong arguments, DataError for a source that cannot be used, WriteError where a file cannot be
    written; OUT.parts is then kept.
    """
    start = time.perf_counter()
    source, out = Path(source), Path(out)
    _check_arguments(session.spec, source, out, overwrite)
    scale = session.spec.scale
    codec = choose_codec(codec, out)
    video = VideoSource(source)
    settings = _encode_settings(video, scale, codec, check_crf(crf, codec))
    size = _batch_size(batch, video)
    length = _segment_length(video, size)
    state = {
        "source": identity(source),
        "model": [model, asdict(session.spec)],
        "result": settings.as_json(),
        "batch": size,
        "segment": length,
    }
    for note in video.notes:
        _logger.info("%s", note)
    store = SegmentStore(out)
    with store.locked():
        if not store.owns_partial:
            overwritable(store.partial, overwrite)
        store.load(state)
        resumed = store.frames
        with _stop_on_signals() as stop, _reporting(progress, source.name, video.total, resumed) as report:
            stages = Stages(session, video, settings, store, size, length, stop, report)
            try:
                stages.run()
            except DataError as error:
                raise _with_partial(error, store, video, settings, scale) from error
        if not stages.complete:
            if partial := _write_partial(store, video, settings, scale):
                _logger.info("stopped after %s frames, written to %s; repeat to resume", store.frames, partial)
            else:
                _logger.info("stopped before the first frame was finished")
            raise KeyboardInterrupt
        if video.damaged:
            _logger.warning("%s frames of the source have errors, which the decoder concealed", video.damaged)
        join_segments(store, video, settings, out, scale=scale, complete=True)
        if store.owns_partial:
            store.partial.unlink(missing_ok=True)
        store.remove()
    seconds = time.perf_counter() - start
    return {
        "frames": store.frames,
        "resumed": resumed,
        "seconds": seconds,
        "fps": (store.frames - resumed) / seconds,
        "busy": {name: busy / stages.seconds for name, busy in stages.pipeline.busy_seconds.items()},
    }


def _check_arguments(spec: Any, source: Path, out: Path, overwrite: bool) -> None:
    if spec.kind != "image" or spec.channels != 3 or spec.result_channels != 3 or spec.classes:
        raise UsageError(
            f"model: expected a network from RGB images to images, got kind {spec.kind!r} with {spec.channels} channels"
        )
    if out.is_dir():
        raise UsageError(f"out: expected a video file to write, got the directory {out}")
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"out: {out} is the source itself")
    if out.exists() and not overwrite:
        raise UsageError(f"out: {out} exists already; overwrite replaces it")


def _encode_settings(video: VideoSource, scale: int, codec: str, crf: int) -> EncodeSettings:
    width, height = scale * video.width, scale * video.height
    # From ×2 on, 4:2:0 has at least as many chroma samples as a 4:4:4 source.
    subsampled = "420" in video.pixel_format or video.pixel_format.startswith(("nv12", "p010", "gray"))
    pixels = pixel_format(codec, width, height, full_chroma=scale == 1 and not subsampled)
    if width % 2 or height % 2:
        _logger.warning(
            "the result is %s×%s, and 4:2:0 needs even sizes: it is written as %s, which not all hardware plays",
            width, height, pixels,
        )  # fmt: skip
    color = video.color
    _logger.info(
        f"{video.path.name}: {video.width}×{video.height} {video.codec} {video.pixel_format} → {width}×{height} {codec}"
        f" {pixels}, {MATRICES[color.matrix]}, {'full' if color.range == PC else 'limited'} range"
    )
    return EncodeSettings(codec, width, height, pixels, video.time_base, video.rate, color, video.aspect, crf)


def _batch_size(batch: int | str, video: VideoSource) -> int:
    if batch == "auto":
        return int(np.clip(BATCH_PIXELS // (video.width * video.height), 1, _MAX_BATCH))
    if isinstance(batch, str) or batch < 1:
        raise UsageError(f"batch: expected auto or a number from 1, got {batch!r}")
    return batch


def _segment_length(video: VideoSource, batch: int) -> int:
    """Frames in a segment: a multiple of the batch, so that a resumed run has the same batches."""
    frames = min(_MAX_SEGMENT, max(1, round(SEGMENT_SECONDS * video.rate)))
    return -(-frames // batch) * batch


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second Ctrl-C raises. Only the main thread can handle signals."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _reporting(
    progress: Callable[[int, int | None], object] | None, name: str, total: int | None, resumed: int
) -> Iterator[Callable[[int, int | None], object]]:
    """`progress`, or where it is None, a function that updates a progress bar."""
    if progress is not None:
        yield progress
        return
    bar = Progress(f"upscaling {name}", total, unit="frames", before=resumed)
    finished = resumed

    def update(done: int, _: int | None) -> None:
        nonlocal finished
        bar.add(done - finished)
        finished = done

    try:
        yield update
    finally:
        bar.close()


def _write_partial(store: SegmentStore, video: VideoSource, settings: EncodeSettings, scale: int) -> Path | None:
    """Write the finished frames to OUT.partial; None where there are none."""
    if not store.segments:
        return None
    join_segments(store, video, settings, store.partial, scale=scale, complete=False)
    store.mark_partial()
    return store.partial


def _with_partial(
    error: DataError, store: SegmentStore, video: VideoSource, settings: EncodeSettings, scale: int
) -> DataError:
    """The error of a damaged source, with the file of the frames before the damage. The segments are removed."""
    partial = _write_partial(store, video, settings, scale)
    store.remove()
    return DataError(f"{error}; the {store.frames} frames before that are in {partial}") if partial else error
