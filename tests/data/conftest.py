"""Small files of every kind, made where a test asks for them."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees, or adds to, the user's fetched sets."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FASTGAN_CACHE", str(folder))
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """picture("a/b.png", mode, (width, height)): noise of that mode, or `array` as it is, saved below tmp_path."""

    def make(name: str, mode: str = "RGB", size: tuple[int, int] = (8, 8), array: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if array is None:
            noise = np.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 4), np.uint8)
            image = Image.fromarray(noise).convert(mode)
        else:
            image = Image.fromarray(array)
        image.save(path)
        return path

    return make


@pytest.fixture
def idx_bytes() -> Callable[[np.ndarray], bytes]:
    """A uint8 array as the bytes of an IDX file, written here independently of the reader."""

    def make(array: np.ndarray) -> bytes:
        return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()

    return make
