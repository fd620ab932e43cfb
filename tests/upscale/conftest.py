"""Sessions whose results are known exactly, image files made without the tested code, small networks as ONNX files."""

import struct
import zlib

import numpy as np
import pytest

from fastgan.runtime.spec import Spec


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))


class Fake:
    """A session whose network blurs with a kernel (zero padding), then repeats each pixel scale × scale times.

    reach: of its spec; half the kernel by default.
    """

    device = "cpu"

    def __init__(self, scale=2, kernel=(1.0,), channels=3, multiple=1, reach=None, fixed=None, kind="image"):
        self.kernel, self.fixed = np.asarray(kernel, np.float64), fixed
        reach = len(kernel) // 2 if reach is None else reach
        self.spec = Spec(kind, channels=channels, scale=scale, multiple=multiple, reach=reach, range=(0.0, 1.0))
        self.shapes = []

    def __call__(self, x):
        assert x.dtype == np.float32
        _, channels, height, width = x.shape
        assert channels == self.spec.channels
        assert height % self.spec.multiple == width % self.spec.multiple == 0
        assert self.fixed in (None, (height, width))
        self.shapes.append((height, width))
        y = x.astype(np.float64)
        if len(self.kernel) > 1:
            half = len(self.kernel) // 2
            for axis in (2, 3):
                pad = [(half, half) if i == axis else (0, 0) for i in range(4)]
                windows = np.lib.stride_tricks.sliding_window_view(np.pad(y, pad), len(self.kernel), axis)
                y = windows @ self.kernel
        return y.repeat(self.spec.scale, 2).repeat(self.spec.scale, 3).astype(np.float32)

    def pixels(self, frames):
        assert frames.dtype == np.uint8
        assert frames.flags.c_contiguous
        y = self(frames.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        return np.clip(np.rint(y * 255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def raw_png(pixels, interlaced=False, chunks=()):
    """uint16 or uint8 [H, W, C] as a PNG file's bytes, without filters."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = pixels.shape
    deep = pixels.dtype == np.uint16
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [pixels]
    lines = [b"\0" + row.astype(">u2" if deep else "u1").tobytes() for part in parts if part.size for row in part]
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16 if deep else 8, color, 0, 0, int(interlaced))
    all_chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"".join(lines), 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in all_chunks)


@pytest.fixture
def fake():
    return Fake


@pytest.fixture
def png_bytes():
    return raw_png


@pytest.fixture
def noise():
    """noise(h, w, c, dtype): an array of any values."""

    def make(height, width, channels=3, dtype=np.uint8, seed=0):
        return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)

    return make


@pytest.fixture
def exif():
    """EXIF data with an orientation, a maker's name and an opaque maker note."""

    def make(orientation, order="<"):
        mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
        entries = struct.pack(f"{order}HHI", 0x010F, 2, 8) + struct.pack(f"{order}I", 62)
        entries += struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
        entries += struct.pack(f"{order}HHI", 0x927C, 7, 4) + b"\xde\xad\xbe\xef"
        entries += struct.pack(f"{order}HHII", 0x0100, 4, 1, 7)
        data = mark + struct.pack(f"{order}IH", 8, 4) + entries + struct.pack(f"{order}I", 0)
        assert len(data) == 62
        return data + b"Lens&Co\0"

    return make
