"""The stages of upscaling a video, in threads: decode, to RGB, network, to YUV, encode."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastgan.errors import DataError
from fastgan.upscale.thread_pipeline import BoundedQueue, CancelledError, ConsumerClosedError, ThreadPipeline
from fastgan.upscale.video.color import ToRGB, ToYUV
from fastgan.upscale.video.decode import TimedFrame, VideoSource
from fastgan.upscale.video.encode import EncodeSettings
from fastgan.upscale.video.segments import SegmentStore, SegmentWriter

#: Queue capacities: frames that wait for conversion, batches before and after the network.
_FRAMES, _BATCHES = 4, 2


class Batch(NamedTuple):
    """pixels: uint8 [n, H, W, 3], before or after the network. frames: their times."""

    pixels: np.ndarray
    frames: list[TimedFrame]


class Stages:
    """One run through all stages.

    session: as in `upscale_video`. batch: frames that the network takes at once. length: frames in a segment. stop:
    when set, no further batch is started. progress: called with the number of finished frames and the total.
    complete: whether the source has ended. seconds: duration of the run.
    """

    def __init__(
        self,
        session: Any,
        video: VideoSource,
        settings: EncodeSettings,
        store: SegmentStore,
        batch: int,
        length: int,
        stop: threading.Event,
        progress: Callable[[int, int | None], object],
    ):
        self._session, self._video, self._settings, self._store = session, video, settings, store
        self._batch, self._length, self._stop, self._progress = batch, length, stop, progress
        self.pipeline = ThreadPipeline()
        self.seconds = 0.0
        self.complete = False

    def run(self) -> None:
        """Run until the source ends or `stop` is set. Finished frames are then in segments, also after an error."""
        start = time.perf_counter()
        stage = self.pipeline.stage
        decoded = stage("decode", lambda _: self._video.frames(self._store.resume_point), None, capacity=_FRAMES)
        batches = stage("to RGB", self._to_rgb, decoded, capacity=_BATCHES)
        self.pipeline.busy_seconds["network"] = 0.0
        upscaled: BoundedQueue[Batch] = BoundedQueue(_BATCHES)
        converted = stage("to YUV", self._to_yuv, upscaled, capacity=_FRAMES)
        written = stage("encode", self._encode, converted, capacity=1)
        error: BaseException | None = None
        try:
            self._run_network(batches, upscaled)
        except ConsumerClosedError:
            pass  # the encoder has failed; `written` raises its error below
        except BaseException as raised:
            error = raised
        # Upscaled frames are kept, unless a second Ctrl-C has come.
        upscaled.finish(CancelledError() if isinstance(error, KeyboardInterrupt) else None)
        batches.close()
        try:
            for _ in written:
                pass
        except CancelledError:
            pass
        finally:
            self.pipeline.join()
            self.seconds = time.perf_counter() - start
        if error is not None:
            raise error

    def _run_network(self, batches: Iterable[Batch], upscaled: BoundedQueue[Batch]) -> None:
        for pixels, frames in batches:
            if self._stop.is_set():
                return
            start = time.perf_counter()
            result = self._session.pixels(pixels)
            self.pipeline.busy_seconds["network"] += time.perf_counter() - start
            upscaled.put(Batch(result, frames))
            self._progress(frames[-1].index + 1, self._video.total)
        self.complete = True

    def _to_rgb(self, decoded: Iterator[TimedFrame]) -> Iterator[Batch]:
        convert = ToRGB(self._video.color)
        gathered: list[TimedFrame] = []
        size = (self._batch, self._video.height, self._video.width, 3)
        pixels = np.empty(size, np.uint8)
        damage: DataError | None = None
        while True:
            try:
                timed = next(decoded, None)
            except DataError as error:
                timed, damage = None, error
            if timed is not None and timed.frame is not None:
                pixels[len(gathered)] = convert(timed.frame)
                timed.frame = None
                gathered.append(timed)
            if gathered and (timed is None or len(gathered) == self._batch):
                yield Batch(pixels[: len(gathered)], gathered)
                gathered, pixels = [], np.empty(size, np.uint8)
            if damage is not None:
                raise damage
            if timed is None:
                return

    def _to_yuv(self, batches: Iterator[Batch]) -> Iterator[tuple[Any, TimedFrame]]:
        convert = ToYUV(self._settings.color, self._settings.pixel_format)
        for pixels, frames in batches:
            for rgb, timed in zip(pixels, frames, strict=True):
                yield convert(rgb), timed

    def _encode(self, converted: Iterator[tuple[Any, TimedFrame]]) -> Iterator[None]:
        segment: SegmentWriter | None = None
        try:
            for frame, timed in converted:
                segment = segment or SegmentWriter(self._store, self._settings)
                segment.write(frame, timed)
                if segment.frames == self._length:
                    segment.close()
                    segment = None
            if segment is not None:
                segment.close()
                segment = None
        finally:
            if segment is not None:
                segment.discard()
        yield from ()
