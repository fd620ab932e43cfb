"""Decode a video file: its properties, and its frames in order with exact times."""

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
from fastgan.upscale.video.pyav import file_url, load, read_errors

if TYPE_CHECKING:
    import av

#: Threads of the decoder. Each frame thread holds a frame, so their number bounds the memory.
THREADS = min(4, os.cpu_count() or 1)


@dataclass
class TimedFrame:
    """A decoded frame with its presentation time.

    index: from 0. time, duration: in units of VideoSource.time_base; duration is 0 where it is unknown. source_pts: the
    time stamp in the file, in the units of its stream; None where it has none. checksum: of some of its decoded pixels.
    frame: None once it has been converted.
    """

    index: int
    time: int
    duration: int
    source_pts: int | None
    checksum: int
    frame: av.VideoFrame | None


@dataclass(frozen=True)
class ResumePoint:
    """The last finished frame. seek_pts: time stamp of an earlier frame, to seek to."""

    index: int
    time: int
    source_pts: int | None
    checksum: int
    seek_pts: int | None


class VideoSource:
    """A video file, of which the first video stream is read (cover images do not count).

    width, height: in pixels. pixel_format: its name. bits: of a component. color: Color. aspect: of a pixel, or None.
    matrix: the nine numbers of the display matrix (rotation), or None. time_base: unit of TimedFrame.time, 1/n seconds.
    shift: whole seconds that are subtracted from all times of the file. rate: average frames per second. total:
    approximate number of frames, or None. notes: sentences for the user. damaged: number of frames with decoding errors
    that the decoder concealed.
    Raises UsageError for a missing file, a folder or an image; DataError for a damaged file or one without a video.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        load()
        if self.path.is_dir():
            raise UsageError(f"source: expected a video file, got the directory {self.path}")
        if not self.path.exists():
            raise UsageError(f"source: {self.path} does not exist")
        if not self.path.is_file():
            raise UsageError(f"source: expected a video file, got {self.path}")
        if self.path.stat().st_size == 0:
            raise DataError(f"{self.path} is empty")
        _refuse_playlists(self.path)
        self.notes: list[str] = []
        self.damaged = 0
        with self.open() as container:
            stream = self.video(container)
            self._read_facts(container, stream)
            with read_errors(self.path, ", at its first frame"):
                first = next(self._decoded(container, stream), None)
            if first is None:
                raise DataError(f"{self.path}: its video stream holds no frame that can be decoded")
            self._read_first(first, stream)

    def open(self) -> Any:
        """Open the file as a PyAV container; references to other protocols than local files are not followed."""
        with read_errors(self.path):
            # Titles and the like may be in any encoding.
            return load().open(file_url(self.path), options={"protocol_whitelist": "file"}, metadata_errors="replace")

    def video(self, container: Any) -> Any:
        """The video stream that is upscaled. Raises UsageError for an image, DataError where there is none."""
        streams = [s for s in container.streams.video if not s.disposition & load().stream.Disposition.attached_pic]
        name = container.format.name
        if name.endswith("_pipe") or name == "image2":
            raise UsageError(f"source: {self.path} is an image ({name.removesuffix('_pipe')}), not a video")
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise DataError(f"{self.path}: expected a video stream, got {kinds}")
        if streams[0].codec_context is None:
            raise DataError(f"{self.path}: its codec is not supported by this build of FFmpeg")
        return streams[0]

    def frames(self, after: ResumePoint | None = None) -> Iterator[TimedFrame]:
        """All frames, or those after a resume point.

        The resume point is found by seeking, if the frame found has the same checksum; else by decoding from the start.
        Raises DataError for a damaged file, with the number of frames before the damage.
        """
        if after is None or after.seek_pts is None or after.source_pts != self._pts_of(after.time):
            yield from self._from_start(after.index + 1 if after else 0)
            return
        with self.open() as container:
            frames = _FrameIterator(self, container, self._threaded_stream(container))
            if _seek_to(frames, container, after):
                yield from frames
                return
        yield from self._from_start(after.index + 1)

    def _from_start(self, skip: int) -> Iterator[TimedFrame]:
        with self.open() as container:
            for timed in _FrameIterator(self, container, self._threaded_stream(container)):
                if timed.index >= skip:
                    yield timed

    def _threaded_stream(self, container: Any) -> Any:
        stream = self.video(container)
        stream.thread_type = "AUTO"
        stream.thread_count = THREADS
        return stream

    def _decoded(self, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
        """Decoded frames. Undecodable packets before the first frame are skipped: recordings start anywhere."""
        av = load()
        started = False
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if started:
                    raise
                continue
            for frame in frames:
                started = True
                yield frame

    def _pts_of(self, time: int) -> int:
        return (time + self.shift * self.time_base.denominator) // self._base.numerator

    def _read_facts(self, container: Any, stream: Any) -> None:
        context = stream.codec_context
        self.codec = context.name
        self._base: Fraction = stream.time_base
        self.time_base = Fraction(1, self._base.denominator)
        start = container.start_time or 0
        # Broadcasts start at any time of a clock. Whole seconds are exact in every time base.
        self.shift = int(start // load().time_base) if start > 0 else 0
        if self.shift:
            self.notes.append(f"the source starts at {self.shift} s; the result starts at 0")
        self.rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.length = _length(container, stream)
        self.total = stream.frames or (round(self.length * self.rate) if self.length else None)
        others = len([s for s in container.streams.video if s is not stream])
        if others:
            self.notes.append(f"{others} further video stream(s), such as cover images, are left out")

    def _read_first(self, frame: av.VideoFrame, stream: Any) -> None:
        self.width, self.height = frame.width, frame.height
        self.pixel_format = frame.format.name
        self.bits = max(component.bits for component in frame.format.components)
        self.color = Color.of(frame)
        self.aspect: Fraction | None = stream.sample_aspect_ratio or None
        display_matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        self.start = Fraction(0) if frame.pts is None else frame.pts * self._base
        self.matrix = None if display_matrix is None else np.frombuffer(bytes(display_matrix), np.int32).tolist()
        if self.bits > 8:
            self.notes.append(f"the source has {self.bits} bits a component ({self.pixel_format}), the result has 8")
        if self.color.transfer in HDR:
            self.notes.append(f"the source is HDR ({HDR[self.color.transfer]}): 8 bits can show banding")
        if any(component.is_alpha for component in frame.format.components):
            self.notes.append(f"the transparency of {self.pixel_format} is left out")
        if frame.interlaced_frame:
            self.notes.append("the source is interlaced and is not deinterlaced; deinterlacing it before is better")


class _FrameIterator:
    """Iterates over decoded frames. index: of the next frame; last: time of the previous one, or None."""

    def __init__(self, source: VideoSource, container: Any, stream: Any):
        self.index = 0
        self.last: int | None = None
        self.stream = stream
        self._source = source
        self._frames = source._decoded(container, stream)

    def __iter__(self) -> _FrameIterator:
        return self

    def __next__(self) -> TimedFrame:
        source, where = self._source, f", after {self.index} frames"
        with read_errors(source.path, where):
            frame = next(self._frames, None)
        if frame is None:
            self._check_length(where)
            raise StopIteration
        if (frame.width, frame.height) != (source.width, source.height):
            raise DataError(
                f"{source.path}: frame {self.index} is {frame.width}×{frame.height}, those before are"
                f" {source.width}×{source.height}; a change of size is not supported"
            )
        source.damaged += frame.is_corrupt
        source_pts = frame.pts if frame.pts is not None else frame.dts
        scale, shift = source._base.numerator, source.shift * source.time_base.denominator
        time = None if source_pts is None else source_pts * scale - shift
        duration = (frame.duration or 0) * scale
        if time is None or (self.last is not None and time <= self.last):
            # No time stamp: one frame after the last by the rate. One that does not increase: one unit after the last.
            step = max(1, duration or round(1 / source.rate / source.time_base)) if time is None else 1
            time = 0 if self.last is None else self.last + step
        timed = TimedFrame(self.index, time, duration, source_pts, _checksum(frame), frame)
        self.index, self.last = self.index + 1, time
        return timed

    def _check_length(self, where: str) -> None:
        """Some containers end early without an error: compare with the duration in the header."""
        source = self._source
        if source.length is None or self.last is None:
            return
        # Some containers count the duration from the first frame, some from zero.
        end = self.last * source.time_base + 1 / source.rate + source.shift
        decoded = max(end, end - source.start)
        if source.length - decoded > max(Fraction(1), source.length / 50):
            raise DataError(
                f"{source.path} ends{where} at {float(decoded):.1f} s of {float(source.length):.1f} s: its"
                " end is missing"
            )


def _refuse_playlists(path: Path) -> None:
    """FFmpeg would open the files that they name, or try for minutes."""
    try:
        with path.open("rb") as file:
            head = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if head.startswith((b"#EXTM3U", b"ffconcat")) or (head.startswith(b"<") and b"<MPD" in head):
        raise UsageError(f"source: {path} is a playlist, not a video")


def _seek_to(frames: _FrameIterator, container: Any, after: ResumePoint) -> bool:
    """Seek, and decode up to the resume point. False where no frame has its time stamp, or its checksum differs."""
    try:
        container.seek(after.seek_pts, stream=frames.stream, backward=True)
    except load().error.FFmpegError:
        return False
    for timed in frames:
        if timed.source_pts is None or after.source_pts is None or timed.source_pts > after.source_pts:
            return False
        if timed.source_pts == after.source_pts:
            frames.index, frames.last = after.index + 1, after.time
            return timed.checksum == after.checksum
    return False


def _checksum(frame: av.VideoFrame) -> int:
    """CRC-32 of every eighth row of the first plane."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8)[: plane.line_size * plane.height].reshape(plane.height, plane.line_size)
    return zlib.crc32(np.ascontiguousarray(rows[::8, : plane.width]))


def _length(container: Any, stream: Any) -> Fraction | None:
    """Seconds of the video stream as stated in the file, or None."""
    if stream.duration:
        return stream.duration * stream.time_base
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = tag.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, load().time_base)
    return None
