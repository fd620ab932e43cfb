import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from fastgan.data import pixels
from fastgan.errors import DataError
from fastgan.upscale.image import read as module
from fastgan.upscale.image.metadata import reset_exif_orientation
from fastgan.upscale.image.read import image_format, read, read_size


def pillow(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "bmp", "gif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_eight_bits_of_every_format(tmp_path, noise, suffix, channels):
    if (channels in (2, 4) and suffix == "bmp") or (channels > 1 and suffix == "gif"):
        pytest.skip("the format has no such images")
    pixels = noise(13, 9, channels)
    path = tmp_path / f"a.{suffix}"
    pillow(pixels).save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    if (suffix == "webp" and channels <= 2) or suffix == "gif":  # these formats have RGB only
        pixels = np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], axis=2)
    picture = read(path)
    assert picture.pixels.dtype == np.uint8
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert read_size(path) == (13, 9)
    assert picture.notes == []


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_png(tmp_path, noise, png_bytes, channels, interlaced):
    pixels = noise(33, 41, channels, np.uint16)
    (tmp_path / "a.png").write_bytes(png_bytes(pixels, interlaced))
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, pixels)


def tiff(path, pixels, order="<", compressed=False, big=False, **changes):
    """Write uint8 or uint16 [H, W, C] as a TIFF file of one strip (or one plane a channel), with changed tags."""
    height, width, channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize
    planes = pixels.transpose(2, 0, 1) if changes.get("planar") == 2 else [pixels]
    strips = [plane.astype(f"{order}u{depth // 8}").tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    tags = {256: [width], 257: [height], 258: [depth] * channels, 259: [8 if compressed else 1]}
    tags |= {262: [changes.get("photometric", 2 if channels > 2 else 1)], 277: [channels], 278: [height]}
    tags |= {279: [len(strip) for strip in strips], 284: [changes.get("planar", 1)]}
    if channels in (2, 4):
        tags[338] = [changes.get("extra", 2)]
    if "sample_format" in changes:
        tags[339] = [changes["sample_format"]] * channels
    head, word = (16, 8) if big else (8, 4)
    tags[273] = [head + sum(map(len, strips[:i])) for i in range(len(strips))]
    body = b"".join(strips)
    extra_at, directory, extra = head + len(body), b"", b""
    for tag, values in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}I", *values)
        if len(data) > word:
            data, extra = struct.pack(f"{order}{'Q' if big else 'I'}", extra_at + len(extra)), extra + data
        directory += struct.pack(f"{order}HH{'Q' if big else 'I'}", tag, 4, len(values)) + data.ljust(word, b"\0")
    where = extra_at + len(extra)
    mark = {"<": b"II", ">": b"MM"}[order]
    header = struct.pack(f"{order}HHHQ", 43, 8, 0, where) if big else struct.pack(f"{order}HI", 42, where)
    count = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    path.write_bytes(mark + header + body + extra + count + directory + b"\0" * word)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_of_tiff(tmp_path, noise, channels, order, compressed, big):
    pixels = noise(5, 7, channels, np.uint16)
    path = tiff(tmp_path / "a.tif", pixels, order, compressed, big)
    np.testing.assert_array_equal(read(path).pixels, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_whose_least_value_is_white(tmp_path, noise, dtype):
    pixels = noise(5, 7, 1, dtype)
    path = tiff(tmp_path / "a.tif", pixels, photometric=0)
    np.testing.assert_array_equal(read(path).pixels, np.iinfo(dtype).max - pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_of_separate_planes_is_exact_or_refused(tmp_path, noise, channels, dtype):
    pixels = noise(5, 7, channels, dtype)
    path = tiff(tmp_path / "a.tif", pixels, planar=2, compressed=True)
    if channels == 1 or (channels >= 3 and dtype is np.uint8):
        np.testing.assert_array_equal(read(path).pixels, pixels)
    else:
        # Pillow itself refuses 16 bits of gray and alpha.
        with pytest.raises(DataError, match=r"separate planes.* save it with interleaved|unknown pixel mode"):
            read(path)


@pytest.mark.parametrize("sample_format", [2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_of_signed_or_floating_point_samples_is_refused(tmp_path, noise, dtype, sample_format):
    path = tiff(tmp_path / "a.tif", noise(5, 7, 1, dtype), sample_format=sample_format)
    # Pillow itself refuses floating-point samples of 8 and 16 bits.
    with pytest.raises(DataError, match=r"signed or floating-point samples|unknown pixel mode"):
        read(path)


def test_a_channel_of_tiff_that_is_not_alpha_is_named(tmp_path, noise):
    pixels = noise(5, 7, 4)
    picture = read(tiff(tmp_path / "a.tif", pixels, extra=0))
    np.testing.assert_array_equal(picture.pixels, pixels[..., :3])
    assert picture.notes == ["a channel of unspecified meaning was left out"]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_transparent_value_of_gray_png_with_few_bits(tmp_path, bits):
    values = np.arange(32).reshape(2, 16) % (1 << bits)
    packed = np.packbits((values[..., None] >> np.arange(bits)[::-1] & 1).reshape(2, -1).astype(np.uint8), axis=1)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 16, 2, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    parts = [(b"IHDR", header), (b"tRNS", b"\0\1"), (b"IDAT", data), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    pixels = read(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(pixels[..., 0], values * (255 // ((1 << bits) - 1)))
    np.testing.assert_array_equal(pixels[..., 1], np.where(values == 1, 0, 255))


def test_palettes_bilevel_and_transparent_colors(tmp_path, noise, png_bytes):
    colors = noise(16, 1, 3)[:, 0]
    indices = noise(8, 8, 1)[..., 0] % 16
    image = Image.fromarray(indices)
    image.putpalette(colors.tobytes())
    assert image.mode == "P"
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read(tmp_path / "p.png").pixels, colors[indices])
    image.save(tmp_path / "pt.png", transparency=3)
    pixels = read(tmp_path / "pt.png").pixels
    np.testing.assert_array_equal(pixels[..., 3], np.where(indices == 3, 0, 255))
    np.testing.assert_array_equal(pixels[..., :3], colors[indices])

    Image.fromarray(indices > 7).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read(tmp_path / "1.png").pixels[..., 0], np.where(indices > 7, 255, 0))

    for dtype in (np.uint8, np.uint16):
        for channels in (1, 3):
            pixels = noise(6, 5, channels, dtype)
            key = struct.pack(f">{channels}H", *map(int, pixels[2, 3]))
            (tmp_path / "key.png").write_bytes(png_bytes(pixels, chunks=[(b"tRNS", key)]))
            got = read(tmp_path / "key.png").pixels
            assert got.dtype == dtype
            np.testing.assert_array_equal(got[..., :-1], pixels)
            assert got[2, 3, -1] == 0
            assert (got[..., -1] == np.iinfo(dtype).max).sum() == 29


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_orientation_is_applied(tmp_path, noise, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    image = pillow(noise(10, 6))
    tags = Image.Exif()
    tags[0x0112] = orientation
    image.save(path, exif=tags.tobytes(), **({"quality": 100} if suffix == "jpg" else {}))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert read_size(path) == picture.pixels.shape[:2]
    if picture.metadata.exif:
        left = Image.Exif()
        left.load(picture.metadata.exif)
        assert left[0x0112] == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_rest_of_exif_is_kept(tmp_path, noise, exif, order):
    data = exif(6, order)
    pillow(noise(4, 4)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + data)
    assert read(tmp_path / "a.jpg").metadata.exif == exif(1, order)


@pytest.mark.parametrize("data", [b"", b"II", b"no EXIF at all", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x09"])
def test_damaged_exif_data_are_unchanged(tmp_path, noise, data):
    assert reset_exif_orientation(data) == data
    pillow(noise(4, 4)).save(tmp_path / "a.png", exif=b"Exif\0\0" + data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read(tmp_path / "a.png").pixels.shape == (4, 4, 3)


def test_profiles_and_color_chunks(tmp_path, noise, png_bytes):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for suffix in ("png", "jpg", "webp", "tiff"):
        pillow(noise(4, 4)).save(tmp_path / f"a.{suffix}", icc_profile=profile)
        assert read(tmp_path / f"a.{suffix}").metadata.icc == profile
    chunks = [(b"gAMA", struct.pack(">I", 45455)), (b"pHYs", struct.pack(">IIB", 2835, 2835, 1))]
    (tmp_path / "g.png").write_bytes(png_bytes(noise(4, 4), chunks=[(b"tIME", b"\7\xd0\1\1\0\0\0"), *chunks]))
    assert read(tmp_path / "g.png").metadata.chunks == chunks


def test_cmyk_needs_its_profile(tmp_path, noise):
    image = Image.fromarray(noise(8, 8)).convert("CMYK")
    image.save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="CMYK without a color profile"):
        read(tmp_path / "a.jpg")


def test_cmyk_goes_through_its_profile(tmp_path, noise, monkeypatch):
    """Without a real CMYK profile: checks the call of ImageCms and the use of its result."""
    Image.fromarray(noise(8, 8)).convert("CMYK").save(tmp_path / "a.jpg", icc_profile=b"the profile")
    calls = []

    def convert(image, source, target, outputMode):
        calls.append((image.mode, source, outputMode))
        return image.convert("RGB")

    monkeypatch.setattr(module.ImageCms, "ImageCmsProfile", lambda file: file.read())
    monkeypatch.setattr(module.ImageCms, "profileToProfile", convert)
    picture = read(tmp_path / "a.jpg")
    assert calls == [("CMYK", b"the profile", "RGB")]
    assert picture.pixels.shape == (8, 8, 3)
    assert picture.metadata.icc is None
    assert "CMYK" in picture.notes[0]


def test_animations_and_pages_are_refused(tmp_path, noise):
    frames = [pillow(noise(8, 8, seed=i)) for i in range(3)]
    for name in ("a.webp", "a.gif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match="3 frames of an animation"):
            read(tmp_path / name)
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="3 pages"):
        read(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp", "gif"])
def test_truncated_files(tmp_path, noise, suffix):
    whole = io.BytesIO()
    pillow(noise(64, 64)).save(whole, format={"jpg": "JPEG"}.get(suffix, suffix.upper()))
    data = whole.getvalue()
    path = tmp_path / f"a.{suffix}"
    for end in (0, 1, 10, 20, 40, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match=str(path)):
            read(path)


def test_changed_bytes_are_data_errors_or_nothing(tmp_path, noise, png_bytes):
    """A file with a few changed bytes is an image or a DataError, never another error."""
    rng = np.random.default_rng(1)
    for suffix, data in (("png", png_bytes(noise(9, 9, 3, np.uint16))), ("jpg", None), ("tiff", None), ("webp", None)):
        path = tmp_path / f"a.{suffix}"
        if data is None:
            pillow(noise(9, 9)).save(path)
            data = path.read_bytes()
        for _ in range(60):
            broken = bytearray(data)
            for place in rng.integers(8, min(len(data), 120), 3):
                broken[place] = rng.integers(256)
            path.write_bytes(broken)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read_size(path)
                    read(path)
                except DataError:
                    pass


def test_files_that_are_no_image(tmp_path):
    (tmp_path / "a.png").write_text("a letter")
    with pytest.raises(DataError, match="not an image in a supported format"):
        read(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / "b.png")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(tmp_path / "c.png")
    Image.new("F", (4, 4)).save(tmp_path / "f.tiff")
    with pytest.raises(DataError, match="floating-point samples"):
        read(tmp_path / "f.tiff")


def test_the_format_is_that_of_the_content(tmp_path, noise):
    pillow(noise(4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert image_format(tmp_path / "a.jpg") == "PNG"
    assert read(tmp_path / "a.jpg").pixels.shape == (4, 4, 3)


def test_huge_sizes_are_refused_before_decoding(tmp_path, noise, png_bytes, monkeypatch):
    data = bytearray(png_bytes(noise(4, 4)))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"60000×60000 pixels; at most 1,074 megapixels are read"):
        read(tmp_path / "a.png")
    monkeypatch.setattr(module, "LIMIT", 1 << 40)
    monkeypatch.setattr(module, "free_host_memory", lambda: 1 << 30)
    with pytest.raises(DataError, match=r"reading it takes 28.8 GB, and 1.1 GB are free"):
        read(tmp_path / "a.png")


def test_the_size_limit_of_pillow_does_not_apply(tmp_path, noise, png_bytes, monkeypatch):
    """Also not in Image.crop, which checks the limit too."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(module, "_STRIP", 90)
    for channels, dtype in ((3, np.uint8), (3, np.uint16), (2, np.uint16), (1, np.uint16)):
        pixels = noise(37, 40, channels, dtype)
        (tmp_path / "a.png").write_bytes(png_bytes(pixels))
        np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, pixels)


@pytest.mark.parametrize(("suffix", "most"), [("jpg", 512), ("png", 8 * 1032)])
def test_a_header_that_states_more_pixels_than_the_file_can_hold(tmp_path, suffix, most):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)
    data, side = bytearray(path.read_bytes()), 6_000
    if suffix == "jpg":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    else:
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert len(data) * most < side**2
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=f"damaged: its header states {side}×{side} pixels, and it has {len(data):,} bytes"
    ):
        read(path)
    with pytest.raises(ValueError, match=f"its header states {side}×{side} pixels, and it has {len(data):,} bytes"):
        pixels.decode(path, 3, None)
