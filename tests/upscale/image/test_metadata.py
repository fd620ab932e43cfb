import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastgan.upscale.image.metadata import Metadata, _chunks, _is_deep_avif
from fastgan.upscale.image.read import DecodedImage, read, read_size
from fastgan.upscale.image.write import write

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d" dc:title="a"/></x:xmpmeta>'


def copied(path, source):
    """Write a picture to `path`; returns it read again, and the notes."""
    notes = write(path, *source.pixels.shape[:2], [source.pixels], source)
    return read(path), notes


def test_resolution_xmp_and_comment_of_jpeg_are_kept(tmp_path, noise):
    Image.fromarray(noise(8, 6)).save(tmp_path / "a.jpg", dpi=(300, 300), xmp=XMP % 1, comment=b"at the sea")
    picture = read(tmp_path / "a.jpg")
    assert picture.metadata == Metadata(xmp=XMP % 1, dpi=(300.0, 300.0), comment=b"at the sea")
    for suffix in ("jpg", "tiff", "png"):
        again, notes = copied(tmp_path / f"b.{suffix}", picture)
        assert notes == []
        assert again.metadata.xmp == XMP % 1
        assert again.metadata.dpi == pytest.approx((300, 300), rel=1e-4)
    with Image.open(tmp_path / "b.png") as image:
        image.load()
        assert image.text["Comment"] == "at the sea"
    assert read(tmp_path / "b.tiff").metadata.comment == b"at the sea"
    assert read(tmp_path / "b.jpg").metadata.comment == b"at the sea"


def test_what_a_format_cannot_hold_is_named(tmp_path, noise):
    metadata = Metadata(
        xmp=XMP % 1,
        dpi=(72, 72),
        comment=b"c",
        chunks=[(b"cICP", b"\x09\x10\x00\x01"), (b"tEXt", b"Author\0me")],
    )
    hdr = "HDR metadata of the PNG file (colors may look dull)"
    lost = {
        "jpg": ["texts of the PNG file", hdr],
        "webp": ["resolution", "comment", "texts of the PNG file", hdr],
        "bmp": ["XMP data", "comment", "texts of the PNG file", hdr],
        "png": [],
    }  # fmt: skip
    for suffix, names in lost.items():
        kind = {"jpg": "JPEG"}.get(suffix, suffix.upper())
        again, notes = copied(tmp_path / f"a.{suffix}", DecodedImage(noise(8, 8), metadata))
        assert notes == [f"{kind} cannot hold the {name}: left out" for name in names]
        if suffix == "png":
            assert again.metadata.chunks[:2] == metadata.chunks
    _, notes = copied(tmp_path / "b.jpg", DecodedImage(noise(8, 8), Metadata(exif=b"II*\0" + bytes(70_000))))
    assert notes == ["JPEG cannot hold the EXIF data: left out"]
    gamma = Metadata(chunks=[(b"gAMA", struct.pack(">I", 100_000))])
    _, notes = copied(tmp_path / "c.jpg", DecodedImage(noise(8, 8), gamma))
    assert notes == ["JPEG cannot hold the gamma and chromaticities of the PNG file: left out"]


def test_texts_of_png_are_kept_before_and_after_the_pixels(tmp_path, noise, png_bytes):
    late = b"zTXt" + b"Title\0\0" + zlib.compress(b"t")
    data = png_bytes(noise(4, 4), chunks=[(b"tEXt", b"Author\0me")])
    end = data[-12:]
    late = struct.pack(">I", len(late) - 4) + late + struct.pack(">I", zlib.crc32(late))
    (tmp_path / "a.png").write_bytes(data[:-12] + late + end)
    again, notes = copied(tmp_path / "b.png", read(tmp_path / "a.png"))
    assert [name for name, _ in again.metadata.chunks] == [b"tEXt", b"zTXt"]
    with Image.open(tmp_path / "b.png") as image:
        image.load()
        assert image.text == {"Author": "me", "Title": "t"}
    assert notes == []


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_orientation_in_xmp_is_applied_once(tmp_path, noise, suffix):
    options = {"xmp": XMP % 6}
    if suffix == "png":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", (XMP % 6).decode())
    Image.fromarray(noise(10, 6)).save(tmp_path / f"a.{suffix}", **options)
    picture = read(tmp_path / f"a.{suffix}")
    assert picture.pixels.shape == (6, 10, 3)
    assert read_size(tmp_path / f"a.{suffix}") == (6, 10)
    again, _ = copied(tmp_path / f"b.{suffix}", picture)
    assert again.metadata.xmp == XMP % 1
    assert again.pixels.shape == (6, 10, 3)


def test_further_images_of_a_jpeg_are_named(tmp_path, noise):
    Image.fromarray(noise(8, 8)).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(noise(8, 8, seed=1))]
    )
    assert "further images in the file" in read(tmp_path / "a.jpg").notes[0]


def test_avif(tmp_path, noise):
    pytest.importorskip("PIL.AvifImagePlugin")
    pixels = np.full((16, 24, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.avif", quality=100, xmp=XMP % 1)
    picture = read(tmp_path / "a.avif")
    assert np.abs(picture.pixels.astype(int) - 90).max() <= 1
    assert picture.metadata.xmp == XMP % 1
    assert picture.notes == []
    data = (tmp_path / "a.avif").read_bytes()
    at = data.index(b"av1C") + 6  # Pillow writes 8 bits only
    (tmp_path / "b.avif").write_bytes(data[:at] + bytes([data[at] | 0x40]) + data[at + 1 :])
    assert _is_deep_avif(tmp_path / "b.avif")


def test_a_chunk_that_claims_gigabytes_takes_no_memory(tmp_path, noise, png_bytes):
    data = png_bytes(noise(4, 4), chunks=[(b"tEXt", b"a\0b")])
    at = data.index(b"tEXt") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + struct.pack(">I", (1 << 31) - 1) + data[at + 4 :])
    tracemalloc.start()
    chunks = list(_chunks(tmp_path / "a.png"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [name for name, _ in chunks] == [b"tEXt"]
    assert peak < 1 << 20
