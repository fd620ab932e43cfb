"""Files that are whole or not there, on a disk that may run full and in a process that may be killed."""

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
    """Write a file aside, let it reach the disk, and rename it. Raises WriteError, with the old file as it was."""
    with writing_whole(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """The same for what is written piece by piece: the file gets its name when the block ends, and only without error.

    Any OSError of the block becomes a WriteError of `path`.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FastganError):
            raise failure(path, error) from error
        raise


def append_whole(file: io.FileIO, data: bytes) -> None:
    """Add to an unbuffered file, or leave it as it was and raise WriteError."""
    end = file.seek(0, os.SEEK_END)
    try:
        # A nearly full disk takes a part, and says so only by the number.
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        file.truncate(end)
        raise failure(Path(os.fsdecode(file.name)), error) from error


def failure(path: Path, error: OSError) -> WriteError:
    """What to raise when `path` could not be written."""
    return WriteError(f"{path} could not be written: {error.strerror or error}; {free(path.parent)} free there")


def free(folder: Path) -> str:
    """How much the disk of `folder` can take, as the start of a clause: `1.2 GB are`."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{amount(shutil.disk_usage(folder).free)} are"


def amount(size: int) -> str:
    """Bytes as a person says them: 41 kB, 7.8 MB, 1.2 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.0f} kB"


def sync(path: Path) -> None:
    """Let a file's content, or a folder's names, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
