"""Entries of the cache directory: bound to what they were made from, and verified when they are read.

The directory may be shared, copied, cut short by a full disk or edited. What does not verify is made again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastgan._util.files import aside, write_whole


def require_writable(folder: Path) -> None:
    """Create a folder and try to write a file there: before what is to be stored is downloaded or computed.

    Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with aside(folder / "probe"):
        pass


def store(path: Path, key: str, data: bytes) -> None:
    """Write an entry, whole or not at all. key: everything that it depends on. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _seal(key, data) + data)


def load(path: Path, key: str) -> bytes:
    """The data that `store` wrote there with this key.

    Raises OSError (FileNotFoundError where there is none), and ValueError where the entry is damaged or another one's.
    """
    content = path.read_bytes()
    seal, data = content[:_LENGTH], content[_LENGTH:]
    if seal != _seal(key, data):
        raise ValueError(f"{path} is damaged, or of something else")
    return data


def _seal(key: str, data: bytes) -> bytes:
    digest = hashlib.sha256(f"{len(key)} {key}".encode())
    digest.update(data)
    return digest.hexdigest().encode()


_LENGTH = len(_seal("", b""))
