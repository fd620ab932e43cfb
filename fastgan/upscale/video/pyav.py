"""PyAV, imported at first use, and the conversion of its errors to fastgan's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fastgan._util.files import failure
from fastgan.errors import DataError, FastganError, UsageError


def load() -> ModuleType:
    """Import `av`. Raises UsageError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UsageError("PyAV is not installed; install it with: pip install 'fastgan[video]'") from None
    return av


def file_url(path: Path) -> str:
    """The URL of a file for PyAV, which would take a name with a colon for a network protocol."""
    return f"file:{path}"


@contextmanager
def read_errors(path: Path, where: str = "") -> Iterator[None]:
    """Convert PyAV's errors in the block to DataError of `path`. where: appended to the message."""
    av = load()
    try:
        yield
    except av.error.InvalidDataError as error:
        raise DataError(f"{path} is damaged or not a video{where}") from error
    except av.error.FFmpegError as error:
        raise DataError(f"{path} cannot be read{where}: {error.strerror or error}") from error


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Convert OSError and PyAV's errors in the block to WriteError of `path`, with the free disk space."""
    av = load()
    try:
        yield
    except FastganError:
        raise
    except OSError as error:
        raise failure(path, error) from error
    except av.error.FFmpegError as error:
        raise FastganError(f"{path} could not be written: {error.strerror or error}") from error
