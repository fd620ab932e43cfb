"""Lists the files in an uncompressed tar, header by header.

Not tarfile.open: for a header with a negative size it reads the same members for ever, and its search for pax records
takes quadratic time. The headers themselves are parsed by tarfile.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_BLOCK = tarfile.BLOCKSIZE
_EXTRA = 1 << 20  # bytes of one record of names and the like; real ones have some hundred
_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK, _GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"
_SPARSE_MORE = 482  # where the header of a sparse file, and 504 where a further one says that another one follows


class TarFile(NamedTuple):
    """name: as the tar has it. offset, size: of its bytes in the tar."""

    name: str
    offset: int
    size: int


def tar_files(path: Path) -> Iterator[TarFile]:
    """The regular files of a tar in the formats ustar, pax and GNU; links, folders and sparse files are left out.

    Raises ValueError for a damaged or incomplete tar, OSError where it cannot be read.
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        stated: dict[str, str] = {}  # by the records before a header
        while any(block := _block(file)):
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise ValueError(f"{error} at byte {file.tell() - _BLOCK:,}") from error
            offset, size = file.tell(), header.size
            if header.type == _GNU_SPARSE:
                offset = _after_sparse_headers(file, block)
            special = header.type in (_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK)
            if "size" in stated and not special:
                size = _number(stated["size"])
            # Links, devices and folders state sizes of nothing.
            stored = size if special or header.isreg() or header.type not in tarfile.SUPPORTED_TYPES else 0
            if not 0 <= stored <= end - offset:
                raise ValueError(f"a member states {size:,} bytes, and {end - offset:,} are left")
            if special:
                if stored > _EXTRA:
                    raise ValueError(f"a record of names states {stored:,} bytes")
                if header.type in (_PAX, _LONG_NAME):
                    stated |= _records(file.read(stored), header.type)
            else:
                sparse = header.type == _GNU_SPARSE or any(key.startswith("GNU.sparse") for key in stated)
                if header.isreg() and not sparse:
                    yield TarFile(stated.get("path", header.name), offset, size)
                stated = {}
            file.seek(offset + -(-stored // _BLOCK) * _BLOCK)


def _block(file: BinaryIO) -> bytes:
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise ValueError("the end of the archive is missing")
    return block


def _after_sparse_headers(file: BinaryIO, block: bytes) -> int:
    more = block[_SPARSE_MORE]
    while more:
        more = _block(file)[504]
    return file.tell()


def _records(content: bytes, kind: bytes) -> dict[str, str]:
    """The records of a pax header, "LENGTH KEY=VALUE\\n" each, or the name in a header of GNU tar."""
    if kind == _LONG_NAME:
        return {"path": content.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    found, at = {}, 0
    while at < len(content) and content[at]:  # padding is zeros
        digits = content[at : at + 20].partition(b" ")[0]
        length = _number(digits.decode("ascii", "replace"))
        key, equals, value = content[at + len(digits) + 1 : at + length].partition(b"=")
        if not equals or at + length > len(content):
            raise ValueError("its pax records are damaged")
        found[key.decode("utf-8", "replace")] = value.removesuffix(b"\n").decode("utf-8", "surrogateescape")
        at += length
    return found


def _number(digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise ValueError(f"expected a number in its pax records, got {digits[:20]!r}")
    return int(digits)
