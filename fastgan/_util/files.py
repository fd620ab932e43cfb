"""Atomic writes: a file is complete or unchanged, also where the disk is full, the process is killed, or
several processes write it at once.

What is not complete yet is a file or folder `.fastgan-<16 hexadecimal digits>.part` beside its target. It is created
exclusively, so that no link and no other process's file is ever written to, and its process holds a lock on it: what is
not locked, a killed process has left.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fastgan._util.locks import NOFOLLOW, READ, is_file_of, try_lock
from fastgan.errors import FastganError, UsageError, WriteError

_UNFINISHED = re.compile(r"\.fastgan-[0-9a-f]{16}\.part(\.\w+)?")
#: Folders in which this process has removed what killed ones left: (device, inode).
_cleaned: set[tuple[int, int]] = set()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: to a temporary file, fsync, rename. Raises WriteError; an old file is then unchanged."""
    with writing_whole(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """An open temporary file that replaces `path` when the block ends without an error; otherwise it is removed.

    Of several processes that write `path` at once, each writes a whole file, and the last one stays. Any OSError in the
    block becomes a WriteError of `path`.
    """
    try:
        with aside(path) as temporary:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(path.parent)
    except OSError as error:
        if isinstance(error, FastganError):
            raise
        raise failure(path, error) from error


@contextlib.contextmanager
def aside(path: Path, suffix: str = "") -> Iterator[Path]:
    """A new empty file beside `path`, to write and then to move to `path`; removed at the end if it is still there.

    suffix: of its name, such as ".onnx", for libraries that look at it. Only its content may be replaced, not the file:
    the lock on it protects it (see `aside_folder`). Raises OSError.
    """

    def create(temporary: Path) -> int:
        return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o666)

    with _aside(path, suffix, create) as temporary:
        yield temporary


@contextlib.contextmanager
def aside_folder(path: Path) -> Iterator[Path]:
    """A new empty folder beside `path`, which is removed at the end, if it is still there. Raises OSError."""

    def create(temporary: Path) -> int:
        temporary.mkdir()
        return os.open(temporary, os.O_RDONLY | NOFOLLOW)

    with _aside(path, "", create) as temporary:
        yield temporary


@contextlib.contextmanager
def _aside(path: Path, suffix: str, create: Callable[[Path], int]) -> Iterator[Path]:
    clean(path.parent, once=True)
    while True:
        temporary = path.with_name(f".fastgan-{secrets.token_hex(8)}.part{suffix}")
        try:
            descriptor = create(temporary)
        except FileExistsError:
            continue
        # Between its creation and the lock on it, another process may have taken it for a killed one's.
        if try_lock(descriptor) is not False and is_file_of(descriptor, temporary):
            break
        os.close(descriptor)
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            remove(temporary)
        os.close(descriptor)


def is_unfinished(path: Path) -> bool:
    """Whether a name is that of a file or folder of `aside` or `aside_folder`."""
    return _UNFINISHED.fullmatch(path.name) is not None


def clean(folder: Path, *, once: bool = False) -> None:
    """Remove what killed processes have left of their work in a folder; what is locked, a living one works on.

    once: only the first time in this process.
    """
    try:
        facts = os.stat(folder)
        if once and (facts.st_dev, facts.st_ino) in _cleaned:
            return
        _cleaned.add((facts.st_dev, facts.st_ino))
        found = [entry.path for entry in os.scandir(folder) if _UNFINISHED.fullmatch(entry.name)]
    except OSError:
        return
    for path in map(Path, found):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, READ)
            try:
                if try_lock(descriptor) and is_file_of(descriptor, path):
                    remove(path)
            finally:
                os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with what is in it, if it is there. Raises OSError."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass


def overwritable(path: Path, overwrite: bool, *, own: bool = False, argument: str = "out") -> None:
    """Raise UsageError where something stands at `path`, unless `overwrite` is set or `own` says it is fastgan's.

    Called before any work. A directory is never replaced.
    """
    if path.is_dir():
        raise UsageError(f"{argument}: {path} cannot be written: it is a directory")
    if os.path.lexists(path) and not (overwrite or own):
        raise UsageError(f"{argument}: {path} exists; --overwrite replaces it")


def not_a_source(path: Path, *sources: str | Path, argument: str = "out") -> None:
    """Raise UsageError where `path` is one of the files that are read, also through links: whatever flags are given."""
    for source in sources:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samefile(path, source):
                raise UsageError(f"{argument}: {path} is the source itself ({source}); choose another file")


def append_whole(file: io.FileIO, data: bytes) -> None:
    """Append to an unbuffered file. Raises WriteError; the file then has its old length."""
    end = file.seek(0, os.SEEK_END)
    try:
        # On a nearly full disk write() writes a part and returns its length, without an error.
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        file.truncate(end)
        raise failure(Path(os.fsdecode(file.name)), error) from error


def failure(path: Path, error: OSError) -> WriteError:
    """The WriteError of `path`, with the free space of its disk."""
    return WriteError(f"{path} could not be written: {error.strerror or error}; {free(path.parent)} free there")


def free(folder: Path) -> str:
    """The free space on the disk of `folder`, as the start of a clause: `1.2 GB are`."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{amount(shutil.disk_usage(folder).free)} are"


def amount(size: int) -> str:
    """Format a number of bytes: 41 kB, 7.8 MB, 1.2 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.0f} kB"


def sync(path: Path) -> None:
    """fsync a file, or a folder (its directory entries)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
