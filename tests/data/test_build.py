"""Unreadable images are left out, what cannot be packed is an error, memory is bounded."""

import contextlib
import errno
import io
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastgan.data import build, open_source, pixels
from fastgan.data.listing import Listing, Source
from fastgan.errors import DataError


def encoded(kind, side=40, **options):
    """A noisy picture as a file of that kind."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("BMP", {}), ("PPM", {})],
)
def test_no_truncation_gives_other_pixels(kind, options):
    """A PNG may lack its last 20 bytes, in which no pixel is. Otherwise every cut is found."""
    whole = encoded(kind, 12, **options)
    expected = pixels.decode(io.BytesIO(whole), 3, None)
    for size in range(len(whole)):
        try:
            got = pixels.decode(io.BytesIO(whole[:size]), 3, None)
        except Exception:
            continue
        assert kind == "PNG"
        assert size >= len(whole) - 20
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_picture_is_left_out(tmp_path, kind, keep):
    whole = encoded(kind)
    (tmp_path / "set").mkdir()
    for name in "ac":
        (tmp_path / "set" / f"{name}.{kind.lower()}").write_bytes(whole)
    (tmp_path / "set" / f"b.{kind.lower()}").write_bytes(whole[: int(keep * len(whole))])
    with pytest.warns(UserWarning, match=rf"^1 of 3 images in {tmp_path}/set cannot be read: b\.{kind.lower()}; they"):
        images = open_source(tmp_path / "set")
    assert (images.images.shape, images.skipped) == ((2, 3, 40, 40), 1)
    assert np.array_equal(images.images[0], images.images[1])
    expected = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(images.images[0], expected)


def test_labels_of_unreadable_images_are_left_out_too(tmp_path, picture):
    for name in ("cat/0", "cat/1", "dog/0", "dog/1", "owl/0"):
        picture(f"set/{name}.png", array=np.full((4, 4), 10 * len(name) + int(name[-1]), np.uint8))
    whole = (tmp_path / "set/cat/1.png").read_bytes()
    (tmp_path / "set/cat/1.png").write_bytes(whole[:-20])  # its header is readable
    (tmp_path / "set/owl/0.png").write_bytes(b"no")  # its header is not
    with pytest.warns(UserWarning, match=r"2 of 5 .*: cat/1\.png, owl/0\.png; they are left out"):
        images = open_source(tmp_path / "set")
    assert images.labels is not None
    assert (images.labels.tolist(), images.class_names) == ([0, 1, 1], ("cat", "dog", "owl"))
    assert images.images[:, 0, 0, 0].tolist() == [50, 50, 51]
    assert "skipped  2 that cannot be read" in images.describe()
    again = open_source(tmp_path / "set")  # warns no more
    assert again.skipped == 2


def test_at_most_ten_names_are_listed(tmp_path, picture):
    for i in range(13):
        (tmp_path / f"x{i:02}.png").write_bytes(b"no")
        picture(f"y{i:02}.png")
    with pytest.warns(UserWarning, match=r"13 of 26 images .*: x00\.png, .*, x09\.png and 3 more; they"):
        assert len(open_source(tmp_path)) == 13


def test_more_than_half_unreadable_is_an_error(tmp_path, picture, own_cache):
    for i in range(3):
        picture(f"set/{i}.png", size=(40, 40))
    for i, keep in enumerate((0.0, 0.5)):  # one shows in its header, one only when decoded
        path = tmp_path / "set" / f"{i}.png"
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    message = rf"^2 of 3 images in {tmp_path}/set cannot be read: 0.png, 1.png; that is more than half: remove or"
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "set")
    assert [path.name for path in (own_cache / "packs").iterdir() if path.suffix != ".lock"] == []


def test_nothing_readable(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no")
    with pytest.raises(DataError, match="1 of 1 images"):
        open_source(tmp_path)


def left_in(cache):
    return [path for path in (cache / "packs").iterdir() if path.suffix != ".lock"]


def test_too_little_disk_space_is_detected_before_decoding(tmp_path, picture, monkeypatch, own_cache):
    picture("set/a.png", size=(100, 100))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 29_999))
    monkeypatch.setattr(pixels, "decode", None)  # is not reached
    message = r"packing .*/set takes [0-9]+ kB in .*packs, which has 30 kB free; free some space, set FASTGAN_CACHE"
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "set")
    assert left_in(own_cache) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"packing .*/set takes [0-9]+ kB in .*packs, which is full; free some space"),
        (errno.EIO, r"/set cannot be packed into .*packs: .*Input/output error; set FASTGAN_CACHE"),
    ],
)
def test_writing_fails_midway(tmp_path, picture, monkeypatch, own_cache, number, message):
    for i in range(6):
        picture(f"set/{i}.png", size=(200, 200), mode="RGB")
    opened = Path.open

    def limited(self, mode="r", *rest, **options):
        file = opened(self, mode, *rest, **options)
        if mode == "wb" and self.name == "images.npy":
            return Full(file, 300_000, number)
        return file

    monkeypatch.setattr(Path, "open", limited)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "set")
    assert left_in(own_cache) == []


class Full:
    """A file on a disk with `room` bytes of free space."""

    def __init__(self, file, room, number):
        self.file, self.room, self.number = file, room, number

    def write(self, content):
        self.room -= memoryview(content).nbytes
        if self.room < 0:
            raise OSError(self.number, "No space left" if self.number == errno.ENOSPC else "Input/output error")
        return self.file.write(content)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def test_the_number_of_decoded_images_in_memory_is_bounded():
    looked = []
    listing = Listing([f"{i}.png" for i in range(500)], lambda i: io.BytesIO(bytes([i % 256])))
    source = Source("set", "set", [], lambda stack: listing)
    each = build._each(lambda file: looked.append(file.read()), range(500), source, listing, "reading")
    with contextlib.closing(each):
        next(each)
        time.sleep(0.2)  # time enough for all of them
        assert len(looked) == build._PENDING
        next(each)
    assert len(looked) <= build._PENDING + 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_packing_takes_memory_for_a_few_images_only(tmp_path, own_cache):
    """120 images of 512×512 are 94 MB; at most 32 wait to be written, and each thread holds some."""
    (tmp_path / "set").mkdir()
    rgb = np.zeros((512, 512, 3), np.uint8)
    for i in range(120):
        Image.fromarray(rgb + i).save(tmp_path / "set" / f"{i:03}.bmp")
    code = (
        "import sys, fastgan.data as data; from PIL import BmpImagePlugin\n"
        "def peak(): return next(int(line.split()[1]) for line in open('/proc/self/status') if line[:5] == 'VmHWM')\n"
        "before = peak(); images = data.open_source(sys.argv[1]); print(peak() - before, images.images[7, 0, 0, 0])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "set"], capture_output=True, text=True, check=True)
    kilobytes, pixel = map(int, done.stdout.split())
    assert pixel == 7
    assert kilobytes < 60_000
