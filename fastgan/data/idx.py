"""IDX files, the format of MNIST: two zero bytes, a type code, the number of axes, their lengths, then the values."""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from fastgan.errors import DataError

_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_CHUNK = 1 << 22
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or compressed by gzip (told apart by content, not by name).

    Returns uint8 with the axes the file states: [N, H, W] for images, [N] for labels.
    Raises DataError for a wrong magic number, another type, a file shorter or longer than its header says.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
        # GzipFile is not declared a BinaryIO, but reads like one.
        with cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb") as file:
            return _read(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged or truncated gzip file ({error}); get it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(file: BinaryIO, path: Path) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES:
        raise DataError(
            f"{path} is not an IDX file: expected it to start with 00 00 08, got {head.hex(' ') or 'nothing'}"
        )
    if head[2] != 0x08:
        raise DataError(f"{path} holds {_TYPES[head[2]]} values; expected uint8 (type 08): convert it to 0..255 first")
    axes = head[3]
    lengths = file.read(4 * axes)
    if axes == 0 or len(lengths) < 4 * axes:
        raise DataError(
            f"{path} is truncated: its header states {axes} axes but ends before their lengths; get it again"
        )
    shape = struct.unpack(f">{axes}I", lengths)
    expected = prod(shape)
    # In pieces: a header that lies must not make us allocate what it claims.
    values = bytearray()
    while len(values) <= expected and (piece := file.read(min(_CHUNK, expected + 1 - len(values)))):
        values += piece
    if len(values) < expected:
        raise DataError(f"{path} is truncated: expected {expected:,} values, got {len(values):,}; get it again")
    if len(values) > expected:
        raise DataError(f"{path} is longer than the {expected:,} values its header states; get it again")
    return np.frombuffer(values, np.uint8).reshape(shape)
