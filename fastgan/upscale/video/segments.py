"""Finished segments of an upscaled video, in a folder beside the result, so that an interrupted run can be resumed.

OUT.parts/state.json       source, model and settings of the segments
OUT.parts/00000.nut        a segment: encoded frames, with times relative to its first frame
OUT.parts/00000.json       its `Segment`, written after it: the segment is complete where this file exists
OUT.parts/partial          exists where OUT.partial is a file of this work
OUT.parts/lock             held by the process that works on it
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastgan._util.files import clean, is_unfinished, remove, sync, write_whole
from fastgan._util.locks import owned
from fastgan.errors import UsageError
from fastgan.upscale.video.decode import ResumePoint, TimedFrame
from fastgan.upscale.video.encode import Encoder, EncodeSettings
from fastgan.upscale.video.pyav import file_url, load, write_errors

_logger = logging.getLogger(__name__)

_NAMES = re.compile(r"state\.json|partial|lock|\d{5,}\.(nut|json)")
_ENDS = 1 << 20  # bytes at both ends of a source file that its identity hashes


@dataclass(frozen=True)
class Segment:
    """A complete segment.

    frames: their number. first, last: times of the first and the last frame. duration: of the last frame. delay: number
    of frames by which the encoder reorders. source_pts, checksum: of the last frame (see TimedFrame). seek_pts: source
    time stamp of the first frame.
    """

    frames: int
    first: int
    last: int
    duration: int
    delay: int
    source_pts: int | None
    checksum: int
    seek_pts: int | None


class SegmentStore:
    """The folder of segments of `out`. segments: the complete ones, in order."""

    def __init__(self, out: Path):
        self.out = out
        self.folder = out.with_name(out.name + ".parts")
        self.segments: list[Segment] = []

    @property
    def frames(self) -> int:
        """The number of finished frames."""
        return sum(segment.frames for segment in self.segments)

    @property
    def resume_point(self) -> ResumePoint | None:
        """The last finished frame; None where there is none."""
        if not self.segments:
            return None
        last = self.segments[-1]
        return ResumePoint(self.frames - 1, last.last, last.source_pts, last.checksum, last.seek_pts)

    def path(self, index: int) -> Path:
        """The file of a segment."""
        return self.folder / f"{index:05d}.nut"

    def load(self, state: dict[str, Any]) -> None:
        """Load the segments of an earlier run with the same state; remove those of others. Raises WriteError."""
        state = json.loads(json.dumps(state))
        found = _read_json(self.folder / "state.json")
        if found == state:
            while (segment := _read_json(self.path(len(self.segments)).with_suffix(".json"))) is not None:
                self.segments.append(Segment(**segment))
            if self.segments:
                _logger.info("resuming after %s finished frames in %s", self.frames, self.folder)
            return
        if found is not None:
            changed = ", ".join(name for name in state if found.get(name) != state[name])
            _logger.info("removing the segments of another run in %s (different: %s)", self.folder, changed)
        with write_errors(self.folder):
            self._clear(keep="lock")
            write_whole(self.folder / "state.json", json.dumps(state, indent=1).encode())

    def commit(self, segment: Segment) -> None:
        """Mark the segment file written last as complete."""
        path = self.path(len(self.segments))
        with write_errors(path):
            sync(path)
        write_whole(path.with_suffix(".json"), json.dumps(asdict(segment)).encode())
        self.segments.append(segment)

    @property
    def partial(self) -> Path:
        """The file for the finished frames of a stopped run: clip.mp4 → clip.partial.mp4."""
        return self.out.with_name(f"{self.out.stem}.partial{self.out.suffix}")

    @property
    def owns_partial(self) -> bool:
        """Whether OUT.partial was written by this work."""
        return (self.folder / "partial").exists()

    def mark_partial(self) -> None:
        """Remember that OUT.partial is a file of this work."""
        write_whole(self.folder / "partial", b"")

    def remove(self) -> None:
        """Delete the files of this work and the folder."""
        with suppress(OSError):
            self._clear()
            self.folder.rmdir()

    def _clear(self, keep: str = "") -> None:
        for file in self.folder.iterdir():
            if file.name != keep and (_NAMES.fullmatch(file.name) or is_unfinished(file)):
                remove(file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and hold its lock.

        Raises UsageError where it cannot be created, is locked already, or has somebody else's files in it.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(owned(self.folder / "lock", self.out, "is writing it"))
                others = [name for name in os.listdir(self.folder) if not _NAMES.fullmatch(name)]
            except OSError as error:
                raise UsageError(f"out: {self.out} cannot be written: {error.strerror or error}") from error
            clean(self.folder)
            if others := [name for name in others if not is_unfinished(Path(name))]:
                raise UsageError(
                    f"out: {self.folder} is for the work on {self.out}, and holds {others[0]!r}; move it away"
                )
            yield


class SegmentWriter:
    """Encodes frames into the next segment of a store."""

    def __init__(self, store: SegmentStore, settings: EncodeSettings):
        self._store, self._path = store, store.path(len(store.segments))
        self._packet_pts: list[int] = []  # in decoding order
        self.frames = 0
        with write_errors(self._path):
            # NUT has no negative times: these are relative to the first frame, and must not be shifted by the muxer.
            self._container = load().open(
                file_url(self._path), "w", format="nut", options={"avoid_negative_ts": "disabled"}
            )
            self._encoder = Encoder(self._container, settings)

    def write(self, frame: Any, timed: TimedFrame) -> None:
        """Encode and mux a converted frame with the time of `timed`. Raises WriteError."""
        if not self.frames:
            self._first = timed
        self._last = timed
        self.frames += 1
        with write_errors(self._path):
            self._mux(self._encoder.write(frame, timed.time - self._first.time))

    def close(self) -> None:
        """Finish the segment and commit it to the store. Raises WriteError."""
        with write_errors(self._path):
            self._mux(self._encoder.finish())
            self._container.close()
        rank = {pts: i for i, pts in enumerate(sorted(self._packet_pts))}
        delay = max(i - rank[pts] for i, pts in enumerate(self._packet_pts))
        first, last = self._first, self._last
        self._store.commit(
            Segment(
                self.frames,
                first.time,
                last.time,
                last.duration,
                delay,
                last.source_pts,
                last.checksum,
                first.source_pts,
            )
        )

    def discard(self) -> None:
        """Delete the incomplete segment."""
        try:
            self._container.close()
        except load().error.FFmpegError:
            pass  # the file is removed anyway, and an error has been raised already
        self._path.unlink(missing_ok=True)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self._packet_pts.append(packet.pts)
            self._container.mux(packet)


def identity(path: Path) -> dict[str, Any]:
    """Identifies a source file independently of its path: its size, and the SHA-256 of its first and last MiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_ENDS))
        file.seek(max(_ENDS, size - _ENDS))
        digest.update(file.read(_ENDS))
    return {"bytes": size, "sha256_of_ends": digest.hexdigest()}


def _read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
