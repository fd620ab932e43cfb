"""What is done already, beside the result: closed pieces of video, each whole once its note exists.

OUT.parts/state.json       what the pieces were made from and how
OUT.parts/00000.nut        a piece: times count from its first frame
OUT.parts/00000.json       its note, written last: whoever finds it finds the piece whole
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastgan._util.files import sync, write_whole
from fastgan.errors import UsageError
from fastgan.upscale.video.decode import Place, Shot
from fastgan.upscale.video.encode import Encoder, Look
from fastgan.upscale.video.library import address, load, writing

_ENDS = 1 << 20  # bytes at either end of a source that tell it from others


@dataclass(frozen=True)
class Note:
    """A whole piece. frames: in it; first, last: times of its first and last frame, duration of the last; delay: by how
    many frames its encoder reorders; stamp, mark: of the last frame; near: the stamp of the first one."""

    frames: int
    first: int
    last: int
    duration: int
    delay: int
    stamp: int | None
    mark: int
    near: int | None


class Parts:
    """The folder of pieces. notes: of the whole ones, in order."""

    def __init__(self, out: Path):
        self.out = out
        self.folder = out.with_name(out.name + ".parts")
        self.notes: list[Note] = []

    @property
    def frames(self) -> int:
        """How many are done."""
        return sum(note.frames for note in self.notes)

    @property
    def place(self) -> Place | None:
        """Behind the last whole piece."""
        if not self.notes:
            return None
        last = self.notes[-1]
        return Place(self.frames - 1, last.last, last.stamp, last.mark, last.near)

    def path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.nut"

    def begin(self, state: dict[str, Any], say: Callable[[str], object]) -> None:
        """Take over the pieces that were made from the same in the same way; remove others. Raises WriteError."""
        state = json.loads(json.dumps(state))
        found = _read(self.folder / "state.json")
        if found == state:
            while (note := _read(self.path(len(self.notes)).with_suffix(".json"))) is not None:
                self.notes.append(Note(**note))
            if self.notes:
                say(f"going on after {self.frames} frames that are done already, from {self.folder}")
            return
        if found is not None:
            changed = [name for name in state if found.get(name) != state[name]]
            say(f"{self.folder} holds parts of another run ({', '.join(changed)} differ); they are removed")
        with writing(self.folder):
            for file in self.folder.iterdir():
                if file.name != "lock":
                    file.unlink()
            write_whole(self.folder / "state.json", json.dumps(state, indent=1).encode())

    def commit(self, note: Note) -> None:
        """The piece that has just been written is whole."""
        path = self.path(len(self.notes))
        with writing(path):
            sync(path)
        write_whole(path.with_suffix(".json"), json.dumps(asdict(note)).encode())
        self.notes.append(note)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder and hold its lock. Raises UsageError where it cannot be made or another process holds it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("a")
        except OSError as error:
            raise UsageError(f"out: {self.out} cannot be written: {error.strerror or error}") from error
        with lock:
            try:
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"out: another process is writing {self.out}") from None
            except ImportError:
                pass  # a system without this kind of lock
            yield


class Piece:
    """One piece being written."""

    def __init__(self, parts: Parts, look: Look):
        self._parts, self._path = parts, parts.path(len(parts.notes))
        self._stamps: list[int] = []  # the packets' times, in the order of decoding
        self.frames = 0
        with writing(self._path):
            # Times count from the first frame, for NUT knows none below zero; and they must stay as they are.
            self._container = load().open(
                address(self._path), "w", format="nut", options={"avoid_negative_ts": "disabled"}
            )
            self._encoder = Encoder(self._container, look)

    def write(self, frame: Any, shot: Shot) -> None:
        """Encode and store a frame. Raises WriteError."""
        if not self.frames:
            self._first = shot
        self._last = shot
        self.frames += 1
        with writing(self._path):
            self._store(self._encoder.write(frame, shot.time - self._first.time))

    def close(self) -> None:
        """Finish the piece and note that it is whole. Raises WriteError."""
        with writing(self._path):
            self._store(self._encoder.finish())
            self._container.close()
        rank = {stamp: i for i, stamp in enumerate(sorted(self._stamps))}
        delay = max(i - rank[stamp] for i, stamp in enumerate(self._stamps))
        first, last = self._first, self._last
        self._parts.commit(
            Note(self.frames, first.time, last.time, last.duration, delay, last.stamp, last.mark, first.stamp)
        )

    def drop(self) -> None:
        """Leave off, in the middle."""
        try:
            self._container.close()
        except load().error.FFmpegError:
            pass  # it is removed all the same, and the reason is on its way already
        self._path.unlink(missing_ok=True)

    def _store(self, packets: list[Any]) -> None:
        for packet in packets:
            self._stamps.append(packet.pts)
            self._container.mux(packet)


def identity(path: Path) -> dict[str, Any]:
    """What tells a source from others, wherever it lies: its size, and the checksum of its ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_ENDS))
        file.seek(max(_ENDS, size - _ENDS))
        digest.update(file.read(_ENDS))
    return {"bytes": size, "sha256_of_ends": digest.hexdigest()}


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no whole one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
