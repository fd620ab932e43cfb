"""Write PNG files strip by strip: Pillow needs the whole image in memory, and has no RGB of 16 bits.

The format is that of "Portable Network Graphics (PNG) Specification (Third Edition)", W3C.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: The last bytes of every complete PNG file.
END = b"\0\0\0\0IEND\xaeB`\x82"
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels
_IDAT = 1 << 18  # bytes of a data chunk
_BLOCK = 1 << 18  # bytes that are filtered at a time: fits into the cache of a core


class PngWriter:
    """Writes a PNG of known size into an open file: `write` rows from top to bottom, then `close`.

    channels: 1 (gray), 2 (gray and alpha), 3 (RGB), 4 (RGB and alpha). depth: bits of a sample, 8 or 16.
    chunks: further chunks by name, such as (b"iCCP", ...), in the order to write.
    """

    def __init__(
        self,
        file: BinaryIO,
        height: int,
        width: int,
        channels: int,
        depth: int,
        chunks: Iterable[tuple[bytes, bytes]] = (),
    ):
        self._file, self._left = file, height
        self._pixel = channels * depth // 8
        self._row = width * self._pixel
        self._above = np.zeros((1, self._row), np.uint8)
        # Filtered rows: three times as fast as level 6, and 3 % larger (an enlarged photograph).
        self._compress = zlib.compressobj(4, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_FILTERED)
        self._data = bytearray()
        file.write(SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, _COLOR_TYPES[channels], 0, 0, 0))
        for name, data in chunks:
            self._chunk(name, data)

    def write(self, rows: np.ndarray) -> None:
        """Write the next rows: uint8 or uint16 [h, width, channels]."""
        assert len(rows) <= self._left
        self._left -= len(rows)
        if rows.dtype == np.uint16:
            rows = rows.astype(">u2")
        lines = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), self._row)
        step = max(1, _BLOCK // self._row)
        for start in range(0, len(lines), step):
            block = lines[start : start + step]
            above = np.concatenate([self._above, block[:-1]])
            self._above = block[-1:].copy()
            self._data += self._compress.compress(_filtered(block, above, self._pixel))
            if len(self._data) >= _IDAT:
                self._flush()

    def close(self) -> None:
        """Write the end of the file, after all rows."""
        assert self._left == 0
        self._data += self._compress.flush()
        self._flush()
        self._file.write(END)

    def _flush(self) -> None:
        self._chunk(b"IDAT", bytes(self._data))
        self._data.clear()

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))


def icc_chunk(profile: bytes) -> tuple[bytes, bytes]:
    """The chunk of an ICC profile."""
    return b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)


def _filtered(lines: np.ndarray, above: np.ndarray, pixel: int) -> np.ndarray:
    """Filter rows of bytes [h, n], each with the best filter, whose number comes first: uint8 [h, 1 + n].

    The choice is the specification's heuristic: least sum of absolute differences. `Average` is omitted: it is rarely
    the best.
    """
    left, corner = np.zeros_like(lines), np.zeros_like(lines)
    left[:, pixel:], corner[:, pixel:] = lines[:, :-pixel], above[:, :-pixel]
    candidates = {0: lines, 1: lines - left, 2: lines - above, 4: lines - _paeth(left, above, corner)}
    sums = [np.abs(rows.view(np.int8).astype(np.int16)).sum(axis=1) for rows in candidates.values()]
    best = np.argmin(sums, axis=0)
    result = np.empty((len(lines), 1 + lines.shape[1]), np.uint8)
    for i, (number, rows) in enumerate(candidates.items()):
        result[best == i, 0], result[best == i, 1:] = number, rows[best == i]
    return result


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The Paeth predictor: the neighbor that is nearest to left + above − corner."""
    a, b, c = left.astype(np.int16), above.astype(np.int16), corner.astype(np.int16)
    far_a, far_b = np.abs(b - c), np.abs(a - c)
    far_c = np.abs(a + b - 2 * c)
    other = np.where(far_b <= far_c, above, corner)
    return np.where((far_a <= far_b) & (far_a <= far_c), left, other)
