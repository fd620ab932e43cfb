import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from fastgan.errors import DataError, UsageError, WriteError
from fastgan.upscale.image import png
from fastgan.upscale.image import write as module
from fastgan.upscale.image.metadata import Metadata
from fastgan.upscale.image.read import DecodedImage, read
from fastgan.upscale.image.write import check_size, is_complete, output_format, write

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def write_all(path, picture, rows=5):
    pixels = picture.pixels
    return write(path, *pixels.shape[:2], (pixels[i : i + rows] for i in range(0, len(pixels), rows)), picture)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (13, 1), (1, 9), (23, 31)])
def test_png_is_read_again(tmp_path, noise, size, channels, dtype):
    pixels = noise(*size, channels, dtype)
    assert write_all(tmp_path / "a.png", DecodedImage(pixels)) == []
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, pixels)
    assert is_complete(tmp_path / "a.png")


def test_every_filter_is_decoded_by_pillow(noise, monkeypatch):
    """Each filter alone: on real images the heuristic could hide a wrong one."""
    pixels = noise(9, 11)
    seen = set()
    for number in (0, 1, 2, 4):

        def only(sums, axis, number=number):
            return np.full(len(sums[0]), (0, 1, 2, 4).index(number))

        with monkeypatch.context() as patch:
            patch.setattr(png.np, "argmin", only)
            rows = pixels.reshape(9, 33)
            lines = png._filtered(rows, np.concatenate([np.zeros((1, 33), np.uint8), rows[:-1]]), 3)
            seen |= set(lines[:, 0])
            file = io.BytesIO()
            writer = png.PngWriter(file, 9, 11, 3, 8)
            writer.write(pixels[:4])
            writer.write(pixels[4:])
            writer.close()
        with Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)
    assert seen == {0, 1, 2, 4}


def test_png_files_are_about_as_small_as_those_of_pillow():
    y, x = np.mgrid[:200, :300]
    smooth = np.stack([x * 255 // 300, y * 255 // 200, (x + y) % 256], -1).astype(np.uint8)
    smooth = (smooth + np.random.default_rng(0).integers(0, 4, smooth.shape)).astype(np.uint8)
    ours, pillows = io.BytesIO(), io.BytesIO()
    writer = png.PngWriter(ours, 200, 300, 3, 8)
    writer.write(smooth)
    writer.close()
    Image.fromarray(smooth).save(pillows, format="PNG")
    assert ours.tell() < 1.1 * pillows.tell()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_profile_and_exif_are_kept(tmp_path, noise, exif, suffix):
    picture = DecodedImage(
        noise(8, 8), Metadata(icc=PROFILE, exif=exif(1), chunks=[(b"gAMA", b"\0\0\xb1\x8f"), (b"sRGB", b"\0")])
    )
    notes = write_all(tmp_path / f"a.{suffix}", picture)
    again = read(tmp_path / f"a.{suffix}")
    assert again.metadata.icc == PROFILE
    if suffix == "tiff":
        assert "EXIF" in notes[0]
    else:
        assert again.metadata.exif == exif(1)
        assert notes == []
    if suffix == "png":
        assert again.metadata.chunks == [(b"gAMA", b"\0\0\xb1\x8f")]  # PNG forbids sRGB together with a profile


def test_jpeg_is_of_high_quality_and_full_color(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2] = 255, 0, 0  # columns of one pixel: subsampled colors would smear
    pixels[:, 1::2] = 0, 0, 255
    write_all(tmp_path / "a.jpg", DecodedImage(pixels))
    assert np.abs(read(tmp_path / "a.jpg").pixels.astype(int) - pixels).mean() < 5


def test_alpha_is_composited_on_white_where_the_format_has_none(tmp_path):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :8] = 200, 100, 0, 255
    pixels[:, 8:] = 0, 0, 0, 0
    for name in ("a.jpg", "a.bmp"):
        notes = write_all(tmp_path / name, DecodedImage(pixels))
        assert "composited on white" in notes[0]
        got = read(tmp_path / name).pixels.astype(int)
        assert np.abs(got[:, :8] - [200, 100, 0]).max() <= 3
        assert np.abs(got[:, 8:] - 255).max() <= 3
    half = np.full((2, 2, 2), 128, np.uint8)
    assert (module._composite_on_white(half) == round(128 * 128 / 255 + 255 * 127 / 255)).all()


def test_sixteen_bits_are_rounded_where_the_format_has_eight(tmp_path, noise):
    pixels = noise(8, 8, 3, np.uint16)
    for name in ("a.tiff", "a.bmp"):
        assert "rounded from 16" in write_all(tmp_path / name, DecodedImage(pixels))[0]
        np.testing.assert_array_equal(read(tmp_path / name).pixels, np.rint(pixels / 257).astype(np.uint8))
    gray = noise(8, 8, 1, np.uint16)
    assert write_all(tmp_path / "g.tiff", DecodedImage(gray)) == []
    np.testing.assert_array_equal(read(tmp_path / "g.tiff").pixels, gray)


def test_gray_stays_gray_or_is_noted(tmp_path, noise):
    for name, channels in (("a.jpg", 1), ("a.tiff", 1), ("a.bmp", 1), ("a.webp", 3)):
        notes = write_all(tmp_path / name, DecodedImage(noise(8, 8, 1)))
        assert read(tmp_path / name).pixels.shape == (8, 8, channels)
        assert bool(notes) == (channels == 3)


def test_sizes_beyond_the_format_or_memory_are_refused(tmp_path, monkeypatch):
    for name, side in (("a.jpg", 65_500), ("a.webp", 16_383)):
        check_size(tmp_path / name, side, 1, 3)
        check_size(tmp_path / name, 1, side, 3)
        with pytest.raises(DataError, match=f"a side of a .* file has at most {side:,}; write PNG"):
            check_size(tmp_path / name, 1, side + 1, 3)
    check_size(tmp_path / "a.png", 100_000, 100_000, 4)
    with pytest.raises(DataError, match="4 GB that TIFF can hold"):
        check_size(tmp_path / "a.tiff", 100_000, 100_000, 1)
    monkeypatch.setattr(module, "free_host_memory", lambda: 10_000_000)
    check_size(tmp_path / "a.jpg", 1000, 1000, 3)
    with pytest.raises(DataError, match=r"takes 28.0 MB, and 10.0 MB are free; write PNG"):
        check_size(tmp_path / "a.jpg", 2000, 2000, 3)


def test_unknown_suffix():
    assert output_format(module.Path("A.JPeG")) == "JPEG"
    for name in ("a.psd", "a"):
        with pytest.raises(UsageError, match=rf"out: expected a name that ends in .png, .*, got {name}$"):
            output_format(module.Path(name))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_failed_write_leaves_no_file(tmp_path, noise, name):
    (tmp_path / name).write_bytes(b"before")

    def strips():
        yield noise(4, 8)
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        write(tmp_path / name, 8, 8, strips(), DecodedImage(noise(4, 4)))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"before"
    with pytest.raises(WriteError, match="could not be written"):
        write_all(tmp_path / "nowhere" / name, DecodedImage(noise(4, 4)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_truncated_files_are_not_complete(tmp_path, noise, suffix):
    path = tmp_path / f"a.{suffix}"
    write_all(path, DecodedImage(noise(32, 32)))
    assert is_complete(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_complete(path)
