"""PyAV: loaded when first needed, its errors turned into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fastgan._util.files import failure
from fastgan.errors import DataError, FastganError, UsageError


def load() -> ModuleType:
    """The module `av`. Raises UsageError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UsageError("PyAV is not installed; install it with: pip install 'fastgan[video]'") from None
    return av


def address(path: Path) -> str:
    """A file for PyAV. A bare name with a colon in it would be taken for a protocol, and opened by the network."""
    return f"file:{path}"


@contextmanager
def reading(path: Path, where: str = "") -> Iterator[None]:
    """Turn what PyAV raises about a source into DataError. where: further words, with their comma."""
    av = load()
    try:
        yield
    except av.error.InvalidDataError as error:
        raise DataError(f"{path}: damaged, or no video{where}") from error
    except av.error.FFmpegError as error:
        raise DataError(f"{path} cannot be read{where}: {error.strerror or error}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what PyAV and the system raise while a file is written into WriteError: names it, and what is free there."""
    av = load()
    try:
        yield
    except FastganError:
        raise
    except OSError as error:
        raise failure(path, error) from error
    except av.error.FFmpegError as error:
        raise FastganError(f"{path} could not be written: {error.strerror or error}") from error
