"""Write frames as a video, GIF or WebP file, atomically."""

from __future__ import annotations

import contextlib
import io
import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from fastgan._util.files import aside, failure, sync, write_whole
from fastgan.errors import UsageError
from fastgan.upscale.video.color import BT709, TV, Color, ToYUV
from fastgan.upscale.video.encode import (
    CONTAINERS,
    Encoder,
    EncodeSettings,
    check_crf,
    choose_codec,
    container_of,
    pixel_format,
)
from fastgan.upscale.video.pyav import file_url, load, write_errors

#: Animations that Pillow writes; their frames are kept in memory until the end.
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP"}


class VideoWriter:
    """A context manager that writes uint8 RGB frames; the file exists once the block ends without an error.

    path: ends in .mp4, .mkv, .mov, .webm (PyAV), .gif or .webp (Pillow, endless loops). size: (height, width) in
    pixels. fps: frames per second. codec, crf: as in `upscale_video`.
    Raises UsageError for wrong arguments, WriteError where the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float | Fraction,
        *,
        codec: str = "auto",
        crf: int | None = None,
    ):
        self.path, self.size = Path(path), (int(size[0]), int(size[1]))
        if min(self.size) < 1:
            raise UsageError(f"size: expected height and width of at least 1, got {size}")
        if not 0 < fps <= 1000:
            raise UsageError(f"fps: expected a number above 0 and up to 1000, got {fps}")
        if self.path.is_dir():
            raise UsageError(f"path: expected a file to write, got the directory {self.path}")
        self.frames = 0
        rate = Fraction(fps).limit_denominator(1001)
        self._sink: _PillowSink | _AvSink
        if self.path.suffix.lower() in ANIMATIONS:
            self._sink = _PillowSink(self.path, rate)
        elif self.path.suffix.lower() in CONTAINERS:
            self._sink = _AvSink(self.path, self.size, rate, codec, crf)
        else:
            raise UsageError(f"path: expected a file that ends in {', '.join((*CONTAINERS, *ANIMATIONS))}, got {path}")

    def write(self, frames: np.ndarray) -> None:
        """Add frames, uint8 [N, H, W, 3] or [H, W, 3]. Raises UsageError for others, WriteError on a full disk."""
        batch = frames[None] if frames.ndim == 3 else frames
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (*self.size, 3):
            height, width = self.size
            raise UsageError(
                f"frames: expected uint8 [N, {height}, {width}, 3], got {frames.dtype} {list(frames.shape)}"
            )
        for frame in batch:
            self._sink.write(np.ascontiguousarray(frame), self.frames)
            self.frames += 1

    def close(self) -> None:
        """Finish the file. Raises UsageError where it has no frame, WriteError where it cannot be written."""
        if not self.frames:
            self._sink.discard()
            raise UsageError(f"frames: expected at least one before {self.path} is finished, got none")
        self._sink.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._sink.discard()


class _AvSink:
    """Writes with PyAV into a temporary file."""

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        rate: Fraction,
        codec: str,
        crf: int | None,
    ):
        codec = choose_codec(codec, path)
        height, width = size
        pixels = pixel_format(codec, width, height, full_chroma=False)
        color = Color(BT709, TV, BT709, BT709)
        settings = EncodeSettings(codec, width, height, pixels, 1 / rate, rate, color, None, check_crf(crf, codec))
        self._path = path
        self._to_yuv = ToYUV(color, pixels)
        with write_errors(path), contextlib.ExitStack() as stack:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._aside = stack.enter_context(aside(path))
            self._container = load().open(file_url(self._aside), "w", format=container_of(path))
            self._encoder = Encoder(self._container, settings)
            self._cleanup = stack.pop_all()

    def write(self, frame: np.ndarray, number: int) -> None:
        with write_errors(self._path):
            self._mux(self._encoder.write(self._to_yuv(frame), number))

    def close(self) -> None:
        with self._cleanup, write_errors(self._path):
            self._mux(self._encoder.finish())
            self._container.close()
            sync(self._aside)
            os.replace(self._aside, self._path)
            sync(self._path.parent)

    def discard(self) -> None:
        # The file is removed anyway, and an error has been raised already.
        with self._cleanup, contextlib.suppress(load().error.FFmpegError):
            self._container.close()

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self._container.mux(packet)


class _PillowSink:
    """Writes with Pillow, which takes all frames at once."""

    def __init__(self, path: Path, rate: Fraction):
        self._path, self._rate = path, rate
        self._images: list[Image.Image] = []

    def write(self, frame: np.ndarray, number: int) -> None:
        self._images.append(Image.fromarray(frame))

    def close(self) -> None:
        first, *rest = self._images
        # Start times are rounded, not durations, so that the total is exact. A GIF counts in hundredths of a second.
        unit = 10 if self._path.suffix.lower() == ".gif" else 1
        starts = [unit * round(1000 * i / self._rate / unit) for i in range(len(self._images) + 1)]
        durations = [after - before for before, after in pairwise(starts)]
        file = io.BytesIO()
        first.save(
            file,
            ANIMATIONS[self._path.suffix.lower()],
            save_all=True,
            append_images=rest,
            duration=durations,
            loop=0,
            quality=90,
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failure(self._path, error) from error
        write_whole(self._path, file.getvalue())

    def discard(self) -> None:
        self._images.clear()
