"""Frames of any origin into a video file, whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from fastgan._util.files import failure, sync, write_whole
from fastgan.errors import UsageError
from fastgan.upscale.video.color import BT709, TV, Color, ToYUV
from fastgan.upscale.video.encode import (
    CONTAINERS,
    Encoder,
    Look,
    check_crf,
    choose_codec,
    container_of,
    pixel_format,
)
from fastgan.upscale.video.library import address, load, writing

#: Moving pictures that Pillow writes; their frames are held until the end.
PICTURES = {".gif": "GIF", ".webp": "WEBP"}


class VideoWriter:
    """Writes uint8 RGB frames; use it with `with`, and the file is there when the block ends without an error.

    path: ends in .mp4, .mkv, .mov, .webm (PyAV), .gif or .webp (Pillow, endless loops). size: (height, width).
    fps: frames per second. codec, crf: as for `upscale_video`. say: called with what a user should know.
    Raises UsageError for arguments that do not fit, WriteError where the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float | Fraction,
        *,
        codec: str = "auto",
        crf: int | None = None,
        say: Callable[[str], object] = print,
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
        self._sink: _Pillow | _Stream
        if self.path.suffix.lower() in PICTURES:
            self._sink = _Pillow(self.path, rate)
        elif self.path.suffix.lower() in CONTAINERS:
            self._sink = _Stream(self.path, self.size, rate, codec, crf, say)
        else:
            raise UsageError(f"path: expected a file that ends in {', '.join((*CONTAINERS, *PICTURES))}, got {path}")

    def write(self, frames: np.ndarray) -> None:
        """Add frames: uint8 [N, H, W, 3], or one [H, W, 3]."""
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
        """Finish the file and give it its name."""
        if not self.frames:
            self._sink.drop()
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
            self._sink.drop()


class _Stream:
    """Through PyAV, into a file aside."""

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        rate: Fraction,
        codec: str,
        crf: int | None,
        say: Callable[[str], object],
    ):
        codec = choose_codec(codec, path, say)
        height, width = size
        pixels = pixel_format(codec, width, height, full_chroma=False)
        color = Color(BT709, TV, BT709, BT709)
        look = Look(codec, width, height, pixels, 1 / rate, rate, color, None, check_crf(crf, codec))
        self._path, self._aside = path, path.with_name(f".{path.name}.part")
        self._to_yuv = ToYUV(color, pixels)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = load().open(address(self._aside), "w", format=container_of(path))
            self._encoder = Encoder(self._container, look)

    def write(self, frame: np.ndarray, number: int) -> None:
        with writing(self._path):
            self._mux(self._encoder.write(self._to_yuv(frame), number))

    def close(self) -> None:
        try:
            with writing(self._path):
                self._mux(self._encoder.finish())
                self._container.close()
                sync(self._aside)
                os.replace(self._aside, self._path)
                sync(self._path.parent)
        finally:
            self._aside.unlink(missing_ok=True)

    def drop(self) -> None:
        try:
            self._container.close()
        except load().error.FFmpegError:
            pass  # the file is removed all the same, and the reason is on its way already
        self._aside.unlink(missing_ok=True)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self._container.mux(packet)


class _Pillow:
    """Through Pillow, which wants all frames at once."""

    def __init__(self, path: Path, rate: Fraction):
        self._path, self._rate = path, rate
        self._images: list[Image.Image] = []

    def write(self, frame: np.ndarray, number: int) -> None:
        self._images.append(Image.fromarray(frame))

    def close(self) -> None:
        first, *rest = self._images
        # Beginnings are rounded, not durations, so that the whole keeps its length. A GIF counts in hundredths.
        unit = 10 if self._path.suffix.lower() == ".gif" else 1
        begins = [unit * round(1000 * i / self._rate / unit) for i in range(len(self._images) + 1)]
        durations = [after - before for before, after in pairwise(begins)]
        file = io.BytesIO()
        first.save(
            file,
            PICTURES[self._path.suffix.lower()],
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

    def drop(self) -> None:
        self._images.clear()
