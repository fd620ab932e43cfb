"""A video as a source: what it is, and its frames in order, each with its exact time."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgan.errors import DataError, UsageError
from fastgan.upscale.video.color import HDR, Color
from fastgan.upscale.video.library import address, load, reading

if TYPE_CHECKING:
    import av

#: Threads of the decoder. Frame threads hold a frame each, so many of them would hold much memory.
THREADS = min(4, os.cpu_count() or 1)


@dataclass
class Shot:
    """A frame and its place in time.

    number: from 0. time: of its beginning, in Source.time_base. duration: in the same unit, 0 where it is not known.
    stamp: the time as the file says it (None: it says none). mark: a checksum of some of its pixels, as decoded.
    frame: None once it has been converted.
    """

    number: int
    time: int
    duration: int
    stamp: int | None
    mark: int
    frame: av.VideoFrame | None


@dataclass(frozen=True)
class Place:
    """Where to go on: after the frame with this number, time, stamp and mark. near: an earlier stamp to seek from."""

    number: int
    time: int
    stamp: int | None
    mark: int
    near: int | None


class Source:
    """An opened, probed and closed video file. Its first video stream is what counts; cover pictures are none.

    width, height; pixels: name of the pixel format; bits: of a component; color; aspect: of a pixel; matrix: the nine
    numbers that say how a player turns it, or None; time_base: of Shot.time, 1/n seconds; shift: whole seconds that all
    times of the file are moved by; rate: frames per second, on average; total: frames, about, or None.
    notes: what a user should know, as sentences. damaged: frames that the decoder had to patch up.
    Raises UsageError where there is no such file, or a picture; DataError for a damaged file or one without a video.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        load()
        if self.path.is_dir():
            raise UsageError(f"in: expected a video file, got the directory {self.path}")
        if not self.path.exists():
            raise UsageError(f"in: {self.path} does not exist")
        if not self.path.is_file():
            raise UsageError(f"in: expected a video file, got {self.path}, which is none")
        if self.path.stat().st_size == 0:
            raise DataError(f"{self.path} is empty")
        _refuse_playlists(self.path)
        self.notes: list[str] = []
        self.damaged = 0
        with self.open() as container:
            stream = self.video(container)
            self._read_facts(container, stream)
            with reading(self.path, ", at its first frame"):
                first = next(self._decoded(container, stream), None)
            if first is None:
                raise DataError(f"{self.path}: its video stream holds no frame that can be decoded")
            self._read_first(first, stream)

    def open(self) -> Any:
        """The file as a PyAV container: local, whatever it refers to."""
        with reading(self.path):
            return load().open(address(self.path), options={"protocol_whitelist": "file"})

    def video(self, container: Any) -> Any:
        """The stream that is upscaled."""
        streams = [s for s in container.streams.video if not s.disposition & load().stream.Disposition.attached_pic]
        name = container.format.name
        if name.endswith("_pipe") or name == "image2":
            raise UsageError(f"in: {self.path} is a picture ({name.removesuffix('_pipe')}), not a video")
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise DataError(f"{self.path}: expected a video stream, got {kinds}")
        if streams[0].codec_context is None:
            raise DataError(f"{self.path}: its codec is not known to this build of FFmpeg")
        return streams[0]

    def frames(self, after: Place | None = None) -> Iterator[Shot]:
        """All frames, or those after a place. Raises DataError, with the number of frames before, for a damaged file.

        A place is found by seeking where the frame there is the very same; else by decoding from the beginning.
        """
        if after is None or after.near is None or after.stamp != self._stamp_of(after.time):
            yield from self._all(after.number + 1 if after else 0)
            return
        with self.open() as container:
            shots = _Shots(self, container, self._ready(container))
            if _reaches(shots, container, after):
                yield from shots
                return
        yield from self._all(after.number + 1)

    def _all(self, skip: int) -> Iterator[Shot]:
        with self.open() as container:
            for shot in _Shots(self, container, self._ready(container)):
                if shot.number >= skip:
                    yield shot

    def _ready(self, container: Any) -> Any:
        stream = self.video(container)
        stream.thread_type = "AUTO"
        stream.thread_count = THREADS
        return stream

    def _decoded(self, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
        """Frames. What cannot be decoded before the first whole one is left out: recordings begin anywhere."""
        av = load()
        begun = False
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if begun:
                    raise
                continue
            for frame in frames:
                begun = True
                yield frame

    def _stamp_of(self, time: int) -> int:
        return (time + self.shift * self.time_base.denominator) // self._base.numerator

    def _read_facts(self, container: Any, stream: Any) -> None:
        context = stream.codec_context
        self.codec = context.name
        self._base: Fraction = stream.time_base
        self.time_base = Fraction(1, self._base.denominator)
        start = container.start_time or 0
        # Broadcasts begin at any hour. Whole seconds, for these are exact in any unit.
        self.shift = int(start // load().time_base) if start > 0 else 0
        if self.shift:
            self.notes.append(f"the source's clock begins at {self.shift} s; the result's begins at 0")
        self.rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.length = _length(container, stream)
        self.total = stream.frames or (round(self.length * self.rate) if self.length else None)
        others = len([s for s in container.streams.video if s is not stream])
        if others:
            self.notes.append(f"{others} further video stream(s), such as cover pictures, are left out")

    def _read_first(self, frame: av.VideoFrame, stream: Any) -> None:
        self.width, self.height = frame.width, frame.height
        self.pixels = frame.format.name
        self.bits = max(component.bits for component in frame.format.components)
        self.color = Color.of(frame)
        self.aspect: Fraction | None = stream.sample_aspect_ratio or None
        turned: Any = frame.side_data.get("DISPLAYMATRIX")
        self.start = Fraction(0) if frame.pts is None else frame.pts * self._base
        self.matrix = None if turned is None else np.frombuffer(bytes(turned), np.int32).tolist()
        if self.bits > 8:
            self.notes.append(f"the source has {self.bits} bits a component ({self.pixels}); network and result have 8")
        if self.color.transfer in HDR:
            self.notes.append(f"the source is HDR ({HDR[self.color.transfer]}): 8 bits can show bands in it")
        if any(component.is_alpha for component in frame.format.components):
            self.notes.append(f"the transparency of {self.pixels} is left out")
        if frame.interlaced_frame:
            self.notes.append("the source is interlaced and is upscaled as it is: deinterlace it before for more")


class _Shots:
    """Iterates over decoded frames as Shots. number: of the next one; last: the time of the one before, or None."""

    def __init__(self, source: Source, container: Any, stream: Any):
        self.number = 0
        self.last: int | None = None
        self.stream = stream
        self._source = source
        self._frames = source._decoded(container, stream)

    def __iter__(self) -> _Shots:
        return self

    def __next__(self) -> Shot:
        source, where = self._source, f", after {self.number} frames"
        with reading(source.path, where):
            frame = next(self._frames, None)
        if frame is None:
            self._check_length(where)
            raise StopIteration
        if (frame.width, frame.height) != (source.width, source.height):
            raise DataError(
                f"{source.path}: frame {self.number} is {frame.width}×{frame.height}, those before are"
                f" {source.width}×{source.height}; a change of size is not supported"
            )
        source.damaged += frame.is_corrupt
        stamp = frame.pts if frame.pts is not None else frame.dts
        scale, shift = source._base.numerator, source.shift * source.time_base.denominator
        time = None if stamp is None else stamp * scale - shift
        duration = (frame.duration or 0) * scale
        if time is None or (self.last is not None and time <= self.last):
            # Without a time of its own, or one that does not increase: as long after the last as the rate says.
            step = max(1, duration or round(1 / source.rate / source.time_base)) if time is None else 1
            time = 0 if self.last is None else self.last + step
        shot = Shot(self.number, time, duration, stamp, _mark(frame), frame)
        self.number, self.last = self.number + 1, time
        return shot

    def _check_length(self, where: str) -> None:
        """Some containers end early without a word: compare with how long the file says it is."""
        source = self._source
        if source.length is None or self.last is None:
            return
        # Some count from the first frame, some from zero.
        end = self.last * source.time_base + 1 / source.rate + source.shift
        there = max(end, end - source.start)
        if source.length - there > max(Fraction(1), source.length / 50):
            raise DataError(
                f"{source.path} ends{where} at {float(there):.1f} s; it says that it is {float(source.length):.1f} s"
                " long, so its end is missing"
            )


def _refuse_playlists(path: Path) -> None:
    """FFmpeg would open what they name, or try for minutes."""
    try:
        with path.open("rb") as file:
            head = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if head.startswith((b"#EXTM3U", b"ffconcat")) or (head.startswith(b"<") and b"<MPD" in head):
        raise UsageError(f"in: {path} is a list of other files, not a video")


def _reaches(shots: _Shots, container: Any, after: Place) -> bool:
    """Seek, and read on to a place. False where no frame has its stamp, or another one than that which was done."""
    try:
        container.seek(after.near, stream=shots.stream, backward=True)
    except load().error.FFmpegError:
        return False
    for shot in shots:
        if shot.stamp is None or after.stamp is None or shot.stamp > after.stamp:
            return False
        if shot.stamp == after.stamp:
            shots.number, shots.last = after.number + 1, after.time
            return shot.mark == after.mark
    return False


def _mark(frame: av.VideoFrame) -> int:
    """A checksum of every eighth line of the first plane."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8)[: plane.line_size * plane.height].reshape(plane.height, plane.line_size)
    return zlib.crc32(np.ascontiguousarray(rows[::8, : plane.width]))


def _length(container: Any, stream: Any) -> Fraction | None:
    """Seconds of the video stream as the file says them, or None."""
    if stream.duration:
        return stream.duration * stream.time_base
    said = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if said:
        hours, minutes, seconds = said.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, load().time_base)
    return None
