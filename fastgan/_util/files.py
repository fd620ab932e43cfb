"""Atomic writes: a file is complete or unchanged, also where the disk is full or the process is killed."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fastgan.errors import FastganError, WriteError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: to a temporary file, fsync, rename. Raises WriteError; an old file is then unchanged."""
    with writing_whole(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """An open temporary file that replaces `path` when the block ends without an error; otherwise it is removed.

    Any OSError in the block becomes a WriteError of `path`.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FastganError):
            raise failure(path, error) from error
        raise


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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock against other processes and threads, where the system has flock. Elsewhere there is no lock."""
    with path.open("a") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
