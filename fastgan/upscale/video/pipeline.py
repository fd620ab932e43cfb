"""A video through a network: decode, to RGB, network, to YUV and encode at the same time, in pieces that survive."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastgan._util.progress import Progress
from fastgan.errors import DataError, UsageError
from fastgan.upscale.video.color import MATRICES, PC, ToRGB, ToYUV
from fastgan.upscale.video.decode import Shot, Source
from fastgan.upscale.video.encode import Look, check_crf, choose_codec, pixel_format
from fastgan.upscale.video.join import join
from fastgan.upscale.video.segments import Parts, Piece, identity
from fastgan.upscale.video.threads import Aborted, Gone, Line, Queue

#: Pieces are about this long: what a kill costs at most, and how often the encoder begins anew.
PIECE_SECONDS = 4
_MAX_PIECE = 240  # frames
#: An automatic batch has about this many pixels: small frames do not fill a machine one at a time.
BATCH_PIXELS = 1_000_000
_MAX_BATCH = 16
#: Frames that may wait for conversion, and batches that may wait at either side of the network.
_FRAMES, _BATCHES = 4, 2


class Batch(NamedTuple):
    """pixels: uint8 [n, H, W, 3], of the network's input or output; shots: the frames' places in time."""

    pixels: np.ndarray
    shots: list[Shot]


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
    say: Callable[[str], object] = print,
    progress: Callable[[int, int | None], object] | None = None,
) -> dict[str, Any]:
    """Upscale a video; sound, subtitles, times, colors, pixel aspect and rotation stay as they are.

    session: has `spec` (an image network of 3 channels) and `pixels(uint8 [N, H, W, 3]) → uint8 [N, s·H, s·W, 3]`.
    out: ends in .mp4, .mkv, .mov or .webm. batch: frames that the network takes at once; "auto": by their size.
    codec: h264, hevc, av1, vp9; "auto": the first that container and PyAV take. crf: constant quality, 0 is the best.
    model: what tells this model from others, such as its checksum: parts made with another one are not continued.
    say: called with what a user should know. progress: called with the frames that are through the network and how
    many there are (about; None: not known); without one, a line on stderr counts them.

    Returns frames (in the file), resumed (of them, done before), seconds and fps of this call, and busy: the share of
    that time for which each stage worked.

    The work is kept in OUT.parts, in pieces of some seconds. After a kill, the same call goes on from there, and its
    result is the same. Ctrl-C or SIGTERM finishes the piece in progress, writes what there is as OUT.partial (with
    OUT's suffix) and raises KeyboardInterrupt; a second Ctrl-C ends at once. A source that is damaged further on raises
    DataError, with the frames before in OUT.partial. OUT itself is whole or not there.
    Raises UsageError for arguments that do not fit, DataError for a source that cannot be used, WriteError where
    something cannot be written; then the parts stay.
    """
    start = time.perf_counter()
    source, out = Path(source), Path(out)
    _check_arguments(session.spec, source, out, overwrite)
    codec = choose_codec(codec, out, say)
    video = Source(source)
    look = _look(video, session.spec.scale, codec, check_crf(crf, codec), say)
    size = _batch(batch, video)
    length = _piece_length(video, size)
    state = {
        "source": identity(source),
        "model": [model, asdict(session.spec)],
        "result": look.facts(),
        "batch": size,
        "piece": length,
    }
    for note in video.notes:
        say(note)
    parts = Parts(out)
    with parts.alone():
        parts.begin(state, say)
        before = parts.frames
        meter = _Progress(source.name, before)
        try:
            with _stopping() as stop:
                run = _Run(session, video, look, parts, size, length, stop, progress or meter)
                run.go()
        except DataError as error:
            raise _with_partial(error, parts, video, look, session.spec.scale, say) from error
        finally:
            meter.close()
        if not run.complete:
            _say_partial(parts, video, look, session.spec.scale, say)
            raise KeyboardInterrupt
        if video.damaged:
            say(f"{video.damaged} frame(s) of the source are damaged; they are upscaled as the decoder patched them up")
        join(parts, video, look, out, scale=session.spec.scale, whole=True, say=say)
        parts.remove()
        partial_path(out).unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    done = parts.frames - before
    return {
        "frames": parts.frames,
        "resumed": before,
        "seconds": seconds,
        "fps": done / seconds,
        "busy": {name: busy / run.seconds for name, busy in run.line.busy.items()},
    }


def partial_path(out: Path) -> Path:
    """Where the frames go that are done when the work is stopped: clip.mp4 → clip.partial.mp4."""
    return out.with_name(f"{out.stem}.partial{out.suffix}")


class _Run:
    """One go through the stages. The network runs in the caller's thread: runtimes keep settings by thread."""

    def __init__(
        self,
        session: Any,
        video: Source,
        look: Look,
        parts: Parts,
        batch: int,
        length: int,
        stop: threading.Event,
        progress: Callable[[int, int | None], object],
    ):
        self._session, self._video, self._look, self._parts = session, video, look, parts
        self._batch, self._length, self._stop, self._progress = batch, length, stop, progress
        self.line = Line()
        self.seconds = 0.0
        self.complete = False

    def go(self) -> None:
        """Until the source ends, or one is asked to stop. Whole frames are in pieces then, whatever was raised."""
        start = time.perf_counter()
        shots = self.line.stage("decode", self._decode, None, room=_FRAMES)
        batches = self.line.stage("to RGB", self._to_rgb, shots, room=_BATCHES)
        self.line.busy["network"] = 0.0
        done: Queue[Batch] = Queue(_BATCHES)
        frames = self.line.stage("to YUV", self._to_yuv, done, room=_FRAMES)
        written = self.line.stage("encode", self._encode, frames, room=1)
        error: BaseException | None = None
        try:
            self._through_network(batches, done)
        except Gone:
            pass  # the encoder has failed; it says why below
        except BaseException as came:
            error = came
        # What is through the network is kept; a second Ctrl-C does not wait for that.
        done.end(Aborted() if isinstance(error, KeyboardInterrupt) else None)
        batches.leave()
        try:
            for _ in written:
                pass
        except Aborted:
            pass
        finally:
            self.line.join()
            self.seconds = time.perf_counter() - start
        if error is not None:
            raise error

    def _through_network(self, batches: Iterable[Batch], done: Queue[Batch]) -> None:
        for pixels, shots in batches:
            if self._stop.is_set():
                return
            start = time.perf_counter()
            result = self._session.pixels(pixels)
            self.line.busy["network"] += time.perf_counter() - start
            done.put(Batch(result, shots))
            self._progress(shots[-1].number + 1, self._video.total)
        self.complete = True

    def _decode(self, _: Iterator[Any]) -> Iterator[Shot]:
        return self._video.frames(self._parts.place)

    def _to_rgb(self, shots: Iterator[Shot]) -> Iterator[Batch]:
        convert = ToRGB(self._video.color)
        gathered: list[Shot] = []
        size = (self._batch, self._video.height, self._video.width, 3)
        pixels = np.empty(size, np.uint8)
        damage: DataError | None = None
        while True:
            try:
                shot = next(shots, None)
            except DataError as error:
                shot, damage = None, error
            if shot is not None and shot.frame is not None:
                pixels[len(gathered)] = convert(shot.frame)
                shot.frame = None
                gathered.append(shot)
            if gathered and (shot is None or len(gathered) == self._batch):
                yield Batch(pixels[: len(gathered)], gathered)
                gathered, pixels = [], np.empty(size, np.uint8)
            if damage is not None:
                raise damage
            if shot is None:
                return

    def _to_yuv(self, batches: Iterator[Batch]) -> Iterator[tuple[Any, Shot]]:
        convert = ToYUV(self._look.color, self._look.pixels)
        for pixels, shots in batches:
            for picture, shot in zip(pixels, shots, strict=True):
                yield convert(picture), shot

    def _encode(self, frames: Iterator[tuple[Any, Shot]]) -> Iterator[None]:
        piece: Piece | None = None
        try:
            for frame, shot in frames:
                piece = piece or Piece(self._parts, self._look)
                piece.write(frame, shot)
                if piece.frames == self._length:
                    piece.close()
                    piece = None
            if piece is not None:
                piece.close()
                piece = None
        finally:
            if piece is not None:
                piece.drop()
        yield from ()


def _check_arguments(spec: Any, source: Path, out: Path, overwrite: bool) -> None:
    if spec.kind != "image" or spec.channels != 3:
        raise UsageError(
            f"model: expected a network from RGB images to images, got kind {spec.kind!r} with {spec.channels} channels"
        )
    if out.is_dir():
        raise UsageError(f"out: expected a video file to write, got the directory {out}")
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"out: {out} is the source itself")
    if out.exists() and not overwrite:
        raise UsageError(f"out: {out} exists already; say overwrite to replace it")


def _look(video: Source, scale: int, codec: str, crf: int, say: Callable[[str], object]) -> Look:
    width, height = scale * video.width, scale * video.height
    # Enlarged twice, 4:2:0 has as many chroma samples as the whole source had.
    full = scale == 1 and not ("420" in video.pixels or video.pixels.startswith(("nv12", "p010", "gray")))
    pixels = pixel_format(codec, width, height, full)
    if width % 2 or height % 2:
        say(
            f"the result is {width}×{height}, and 4:2:0 takes even sizes only: it is written as {pixels},"
            " which keeps every pixel but does not play in all hardware"
        )
    color = video.color
    say(
        f"{video.path.name}: {video.width}×{video.height} {video.codec} {video.pixels} → {width}×{height} {codec}"
        f" {pixels}, {MATRICES[color.matrix]}, {'full' if color.range == PC else 'limited'} range"
    )
    return Look(codec, width, height, pixels, video.time_base, video.rate, color, video.aspect, crf)


def _batch(asked: int | str, video: Source) -> int:
    if asked == "auto":
        return int(np.clip(BATCH_PIXELS // (video.width * video.height), 1, _MAX_BATCH))
    if isinstance(asked, str) or asked < 1:
        raise UsageError(f"batch: expected auto or a number from 1, got {asked!r}")
    return asked


def _piece_length(video: Source, batch: int) -> int:
    """Frames, a multiple of the batch: after a resume the network gets the same batches as without."""
    frames = min(_MAX_PIECE, max(1, round(PIECE_SECONDS * video.rate)))
    return -(-frames // batch) * batch


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Set by Ctrl-C or a scheduler's polite end; a second Ctrl-C raises. Only the main thread can listen."""
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


def _say_partial(parts: Parts, video: Source, look: Look, scale: int, say: Callable[[str], object]) -> None:
    if not parts.notes:
        say("stopped before the first frame was done")
        return
    partial = partial_path(parts.out)
    join(parts, video, look, partial, scale=scale, whole=False, say=lambda sentence: None)
    say(f"stopped after {parts.frames} frames: {partial} has them, and the same command goes on from there")


def _with_partial(
    error: DataError, parts: Parts, video: Source, look: Look, scale: int, say: Callable[[str], object]
) -> DataError:
    """The same error, with where the frames before the damage are. A damaged source has no use for its parts."""
    if not parts.notes:
        parts.remove()
        return error
    partial = partial_path(parts.out)
    join(parts, video, look, partial, scale=scale, whole=False, say=lambda sentence: None)
    parts.remove()
    return DataError(f"{error}; the {parts.frames} frames before that are in {partial}")


class _Progress:
    """A line on stderr with the rate and, where the length is known, the time left."""

    def __init__(self, name: str, before: int):
        self._name, self._done = name, before
        self._counter: Progress | None = None

    def __call__(self, done: int, total: int | None) -> None:
        if self._counter is None:
            self._counter = Progress(f"upscaling {self._name}", total, unit="frames", before=self._done)
        self._counter.add(done - self._done)
        self._done = done

    def close(self) -> None:
        if self._counter is not None:
            self._counter.close()
