import os

import numpy as np
import pytest
from PIL import Image

from fastgan.data import open_source
from fastgan.errors import DataError


def test_reads_every_format_in_order(tmp_path, picture):
    for name in ("c.PNG", "a.bmp", "b.jpg", "d.webp", "e.jpeg", "sub/f.png"):
        picture(name)
    picture(".hidden.png", size=(3, 3))
    picture(".thumbnails/a.png", size=(3, 3))
    (tmp_path / "notes.txt").write_text("not a picture")
    images = open_source(tmp_path)
    assert images.images.shape == (6, 3, 8, 8)
    assert (images.labels, images.class_names, images.name) == (None, None, tmp_path.name)
    for i, name in enumerate(("a.bmp", "b.jpg", "c.PNG", "d.webp", "e.jpeg", "sub/f.png")):
        expected = np.asarray(Image.open(tmp_path / name).convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(images.images[i], expected, err_msg=name)


def test_sub_folders_of_the_first_level_are_classes(tmp_path, picture):
    for name in ("dog/b.png", "cat/deep/a.png", "cat/z.png"):
        picture(name)
    images = open_source(tmp_path)
    assert images.class_names == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 0, 1]
    picture("loose.png")
    assert open_source(tmp_path).labels is None


def test_linked_folders_are_followed_once(tmp_path, picture):
    picture("real/cat/a.png")
    picture("set/dog/b.png")
    os.symlink(tmp_path / "real" / "cat", tmp_path / "set" / "cat")
    os.symlink(tmp_path / "set", tmp_path / "set" / "dog" / "loop")
    images = open_source(tmp_path / "set")
    assert (len(images), images.class_names) == (2, ("cat", "dog"))


@pytest.mark.parametrize(
    ("modes", "channels"),
    [(("L", "1", "LA"), 1), (("L", "RGB"), 3), (("L", "P"), 3), (("RGBA",), 3)],
)
def test_channels_follow_the_images(tmp_path, picture, modes, channels):
    for i, mode in enumerate(modes):
        picture(f"{i}.png", mode)
    assert open_source(tmp_path).channels == channels
    assert open_source(tmp_path, channels=4 - channels).channels == 4 - channels


def test_color_is_converted_to_gray_by_luma(tmp_path, picture):
    path = picture("a.png")
    np.testing.assert_array_equal(open_source(tmp_path, channels=1).images[0, 0], Image.open(path).convert("L"))


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGBA"), ("a.png", "LA"), ("a.webp", "RGBA")])
def test_alpha_is_composited_on_white(tmp_path, name, mode):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 128, 255
    (tmp_path / "set").mkdir()
    Image.fromarray(rgba).convert(mode).save(tmp_path / "set" / name, lossless=True)
    values = open_source(tmp_path / "set", channels=1).images[0, 0, 0]
    assert values.tolist() == [255, 127, 0]


def test_palettes(tmp_path):
    (tmp_path / "set").mkdir()
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "set" / "a.png", transparency=bytes([255, 255, 0]))
    assert open_source(tmp_path / "set").images[0, :, 0].T.tolist() == [[255, 0, 0], [0, 255, 0], [255, 255, 255]]
    image.putpalette([7, 7, 7, 90, 90, 90, 200, 200, 200])
    image.save(tmp_path / "set" / "a.png")
    assert open_source(tmp_path / "set").images[0].tolist() == [[[7, 90, 200]]]


def test_sixteen_bits_are_rounded_to_eight(tmp_path, picture):
    wide = np.array([[0, 128, 129, 257 * 100, 65535]], np.uint16)
    picture("set/a.png", array=wide)
    assert open_source(tmp_path / "set").images.tolist() == [[[[0, 0, 1, 100, 255]]]]


def test_the_exif_orientation_is_applied(tmp_path, picture):
    array = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise
    (tmp_path / "set").mkdir()
    Image.fromarray(array).save(tmp_path / "set" / "a.png", exif=exif)
    np.testing.assert_array_equal(open_source(tmp_path / "set").images[0, 0], np.rot90(array, -1))


def test_resolution_crops_the_center_and_resizes(tmp_path, picture):
    wide, tall = picture("a.png", size=(20, 10)), picture("b.png", size=(6, 15))
    images = open_source(tmp_path, resolution=5).images
    for got, path, box in ((images[0], wide, (5, 0, 15, 10)), (images[1], tall, (0, 4, 6, 10))):
        expected = Image.open(path).crop(box).resize((5, 5), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(got, np.asarray(expected).transpose(2, 0, 1))


def test_mixed_sizes_need_a_resolution(tmp_path, picture):
    for i, size in enumerate(((8, 6), (8, 6), (4, 4))):
        picture(f"{i}.png", size=size)
    with pytest.raises(DataError, match=r"have 2 sizes, such as 6×8 and 4×4 .*pass resolution"):
        open_source(tmp_path)
    assert open_source(tmp_path, resolution=4).resolution == (4, 4)


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match=rf"^no images \(bmp, jpeg, jpg, png, webp\) in {tmp_path}$"):
        open_source(tmp_path)
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(DataError, match=r"such as a\.tif: convert them"):
        open_source(tmp_path)


def test_an_unreadable_sub_folder_is_an_error(tmp_path, picture, monkeypatch):
    picture("a.png")
    picture("shut/b.png")

    def guarded(do):
        def refuse(path):
            if str(path).endswith("shut"):
                raise PermissionError(13, "Permission denied", str(path))
            return do(path)

        return refuse

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    for folder in (tmp_path, tmp_path / "shut"):
        with pytest.raises(DataError, match="shut cannot be read: Permission denied"):
            open_source(folder)


def test_labels_of_dataset_json_take_precedence(tmp_path, picture):
    for name in ("00000/a.png", "00000/b.png", "00001/c.png"):
        picture(f"set/{name}")
    stated = tmp_path / "set" / "dataset.json"
    stated.write_text('{"labels": [["00001/c.png", 0], ["00000/b.png", 5], ["00000/a.png", 1]]}')
    images = open_source(tmp_path / "set")
    assert images.labels is not None
    assert (images.labels.tolist(), images.class_names) == ([1, 5, 0], None)
    stated.write_text('{"labels": null}')
    assert open_source(tmp_path / "set").labels is None
    stated.write_text('{"author": "me"}')
    assert open_source(tmp_path / "set").class_names == ("00000", "00001")


def test_a_dangling_link_is_left_out(tmp_path, picture):
    picture("set/a.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "set" / "b.png")
    with pytest.warns(UserWarning, match=r"1 of 2 images in .* cannot be read: b\.png; they are left out"):
        images = open_source(tmp_path / "set")
    assert (len(images), images.skipped) == (1, 1)


@pytest.mark.parametrize("limit", [30, 60])  # beyond twice Pillow's limit it raises, between it warns
def test_decompression_bombs(tmp_path, picture, monkeypatch, limit):
    picture("a.png", size=(10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"a\.png in .* exceeds Pillow's limit for decompression bombs") as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)
