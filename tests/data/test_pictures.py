"""Large pictures as tiles, alone and in pairs."""

import logging
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import open_source
from fastgan.data.joined import JoinedStream
from fastgan.data.kinds import open_sets
from fastgan.data.pictures import open_pictures
from fastgan.data.stream import BatchStream
from fastgan.data.tiles import Tiles
from fastgan.errors import DataError, UsageError


def noise(number, width, height, channels=3):
    """A picture of its own: uint8 [H, W, 3], or [H, W] of one channel."""
    values = np.random.default_rng(number).integers(0, 256, (height, width, channels), np.uint8)
    return values[:, :, 0] if channels == 1 else values


def planes(array):
    return array.transpose(2, 0, 1) if array.ndim == 3 else array[None]


def enlarged(array, scale):
    return array.repeat(scale, 0).repeat(scale, 1)


@pytest.fixture
def folder(picture, tmp_path):
    for i, size in enumerate([(20, 12), (12, 12), (17, 25)]):
        picture(f"set/{i}.png", array=noise(i, *size))
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("length", "side", "step", "expected"),
    [
        (12, 12, 6, [0]),
        (24, 12, 6, [0, 6, 12]),
        (25, 12, 6, [0, 6, 12, 13]),
        (30, 10, 10, [0, 10, 20]),
        (11, 12, 6, []),
    ],
)
def test_tiles_cover_a_side_to_its_end(length, side, step, expected):
    assert Tiles(side, step).starts(length) == expected


def test_pictures_are_cut_into_overlapping_tiles_in_the_order_of_their_names(folder):
    images = open_pictures(folder, 12)["target"]
    expected = [
        planes(noise(i, width, height))[:, y : y + 12, x : x + 12]
        for i, (width, height) in enumerate([(20, 12), (12, 12), (17, 25)])
        for y in {12: [0], 25: [0, 6, 12, 13]}[height]
        for x in {20: [0, 6, 8], 12: [0], 17: [0, 5]}[width]
    ]
    np.testing.assert_array_equal(images.images, np.stack(expected))
    assert images.labels is None
    assert isinstance(images.images, np.memmap)
    assert open_pictures(folder, 12)["target"].pack == images.pack


def test_other_tiles_and_whole_images_are_other_packs(folder):
    found = [open_pictures(folder, 12), open_pictures(folder, 12, step=12), open_pictures(folder, 8)]
    packs = {sets["target"].pack for sets in found} | {open_source(folder, resolution=12).pack}
    assert len(packs) == 4
    assert [len(sets["target"]) for sets in found] == [3 + 1 + 8, 2 + 1 + 6, len(found[2]["target"])]
    assert len(open_source(folder, resolution=12)) == 3


def test_without_a_side_tiles_are_as_large_as_the_smallest_picture_or_480(folder, picture, tmp_path):
    assert open_pictures(folder)["target"].resolution == (12, 12)
    picture("large/0.png", array=noise(0, 490, 485, 1))
    large = open_pictures(tmp_path / "large")["target"]
    assert large.images.shape == (4, 1, 480, 480)
    assert open_sets("pictures", str(folder), None, 1, {"step": 3})["target"].channels == 1


def test_zips_and_array_files_and_labels(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{path.stem}/{path.name}")  # a folder for each: classes, elsewhere
    zipped = open_pictures(tmp_path / "set.zip", 12)["target"]
    np.testing.assert_array_equal(zipped.images, open_pictures(folder, 12)["target"].images)
    assert zipped.labels is None
    arrays = np.stack([planes(noise(i, 20, 16)) for i in range(3)])
    np.savez(tmp_path / "arrays.npz", images=arrays, labels=np.array([0, 1, 2]))
    cut = open_pictures(tmp_path / "arrays.npz", 16, 1)["target"]
    assert (cut.images.shape, cut.labels) == ((6, 1, 16, 16), None)
    cut = open_pictures(tmp_path / "arrays.npz", 16)["target"]
    np.testing.assert_array_equal(cut.images[2:4], np.stack([arrays[1, :, :, :16], arrays[1, :, :, 4:]]))


def test_pictures_smaller_than_a_tile_are_named(folder, tmp_path):
    with pytest.raises(DataError, match=r"2 of 3 images in .*set, such as 0.png, are smaller than 16×16"):
        open_pictures(folder, 16)
    np.savez(tmp_path / "arrays.npz", images=np.zeros((1, 3, 8, 20), np.uint8))
    with pytest.raises(DataError, match=r"are 8×20 \(height×width\), smaller than tiles of 16×16"):
        open_pictures(tmp_path / "arrays.npz", 16)
    with pytest.raises(UsageError, match="step: expected a number of pixels >= 1, got 0"):
        open_pictures(folder, step=0)


def test_a_damaged_picture_is_left_out_with_all_its_tiles(folder):
    whole = open_pictures(folder, 12)["target"].images
    data = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match=r"1 of 3 images in .*set cannot be read: 2.png; they are left out"):
        found = open_pictures(folder, 12)["target"]
    np.testing.assert_array_equal(found.images, whole[:4])
    assert found.skipped == 1


def test_gray_and_transparent_pictures_among_others_are_said(folder, picture, caplog):
    picture("set/gray.png", mode="L", size=(12, 12))
    picture("set/clear.png", mode="RGBA", size=(12, 12))
    with caplog.at_level(logging.INFO, "fastgan"):
        images = open_pictures(folder, 12)["target"]
    assert images.channels == 3
    assert f"1 of 5 images in {folder}, such as gray.png, are gray and become RGB" in caplog.text
    assert f"1 of 5 images in {folder}, such as clear.png, have transparent parts, which become white" in caplog.text


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_no_tile_of_a_held_out_picture_is_trained_on(kind, picture, tmp_path):
    """Every pixel of picture i is i, so that its tiles can be told apart."""
    if kind == "folder":
        for i in range(6):
            picture(f"flat/{i}.png", array=np.full((10, 10 + i, 3), i, np.uint8))
        source = tmp_path / "flat"
    else:
        source = tmp_path / "flat.npz"
        flat = np.arange(6, dtype=np.uint8).repeat(3 * 10 * 14).reshape(6, 3, 10, 14)
        np.savez(source, images=flat)
    images = open_pictures(source, 8, step=2)["target"]
    for seed in range(3):
        stream = BatchStream(images, 4, seed, torch.device("cpu"), held_out=5)
        apart = {round(float(x) * 127.5 + 127.5) for x in stream.held_out[:, 0, 0, 0]}
        given = {int(x) for x in images.images[stream.given, 0, 0, 0]}
        assert len(stream.held_out) == 5
        assert apart
        assert not apart & given
        assert len(apart | given) >= 6 - 1
    with pytest.raises(UsageError, match=r"held_out: expected at most \d+, as tiles are held out with .* has 6, got"):
        BatchStream(images, 4, 0, torch.device("cpu"), held_out=len(images) - 1)
    assert len(BatchStream(images, 4, 0, torch.device("cpu")).given) == len(images)


# --- pairs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(picture, tmp_path):
    """high and low: the pixels of `low` are repeated 4 × 4 times in `high`."""
    for i, (name, size) in enumerate({"a": (7, 5), "a-b": (5, 5), "sub/c": (6, 9)}.items()):
        small = noise(i, *size)
        picture(f"low/{name}x4.png", array=small)
        picture(f"high/{name}.png", array=enlarged(small, 4))
    return tmp_path / "high", str(tmp_path / "low")


@pytest.mark.parametrize(("resolution", "step"), [(None, None), (20, None), (20, 12), (16, 4)])
def test_pairs_are_cut_at_matching_places(pairs, resolution, step):
    high, low = pairs
    found = open_pictures(high, resolution, low=low, step=step)
    source, target = found["source"], found["target"]
    assert len(source) == len(target) > 5
    assert target.resolution == (resolution or 20,) * 2
    np.testing.assert_array_equal(source.images.repeat(4, 2).repeat(4, 3), target.images)


def test_pairs_stay_together_in_batches_and_held_out(pairs):
    high, low = pairs
    batches = JoinedStream(open_pictures(high, 16, low=low, step=4), 4, 0, torch.device("cpu"), held_out=3)
    for batch in (batches.held_out, next(batches), next(batches)):
        assert torch.equal(batch["source"].repeat_interleave(4, 2).repeat_interleave(4, 3), batch["target"])
    assert len(batches.held_out["source"]) == 3


def test_names_may_be_equal_and_one_may_be_a_zip(pairs, tmp_path):
    high, low = pairs
    with zipfile.ZipFile(tmp_path / "low.zip", "w") as archive:
        for name in ("a", "a-b", "sub/c"):
            archive.write(f"{low}/{name}x4.png", f"{name}.png")
    zipped = open_pictures(high, low=str(tmp_path / "low.zip"))
    np.testing.assert_array_equal(zipped["source"].images, open_pictures(high, low=low)["source"].images)


def test_a_picture_without_partner_is_named(pairs, picture):
    high, low = pairs
    picture("high/alone.png", array=noise(9, 20, 20))
    with pytest.raises(DataError, match=r"no image of the same name for alone of .*high in .*low; add the partners"):
        open_pictures(high, low=low)
    picture("low/other.png", array=noise(9, 5, 5))
    with pytest.raises(DataError, match=r"for alone of .*high in .*low; nor for other of .*low in .*high; add"):
        open_pictures(high, low=low)


def test_a_pair_of_another_scale_is_named_even_where_packs_exist(pairs, picture):
    high, low = pairs
    open_pictures(high, low=low)
    picture("low/sub/cx4.png", array=noise(2, 6, 8))
    expected = r"sub/c.png in .*high is 24×36 and sub/cx4.png in .*low 6×8 pixels \(width×height\); expected pictures 4"
    with pytest.raises(DataError, match=expected):
        open_pictures(high, low=low)
    picture("low/ax4.png", array=noise(2, 6, 5))
    with pytest.raises(DataError, match=r"a.png in .*high is 28×20 .* 6×5 .* a whole number of times as large"):
        open_pictures(high, low=low)


def test_tiles_of_pairs_are_multiples_of_the_scale(pairs):
    high, low = pairs
    with pytest.raises(UsageError, match=r"resolution: expected a multiple of 4, the scale of .*low, got 18"):
        open_pictures(high, 18, low=low)
    with pytest.raises(UsageError, match=r"step: expected a multiple of 4, the scale of .*low, got 6"):
        open_pictures(high, 20, low=low, step=6)
    with pytest.raises(UsageError, match="low: pairs are matched by the names of files, and embedded is no folder"):
        open_pictures("embedded", low=low)


@pytest.mark.parametrize("damaged", ["high/sub/c.png", "low/sub/cx4.png"])
def test_a_pair_of_which_one_is_damaged_is_left_out(pairs, tmp_path, damaged):
    high, low = pairs
    data = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(data[:-40])
    with pytest.warns(UserWarning, match="1 of 3 images in .* cannot be read"):
        found = open_pictures(high, low=low)
    assert len(found["source"]) == 2 + 1
    np.testing.assert_array_equal(found["source"].images.repeat(4, 2).repeat(4, 3), found["target"].images)


def test_gray_targets_of_colored_sources_become_rgb(picture, tmp_path):
    gray = noise(0, 5, 5, 1)
    picture("low/a.png", array=np.stack([gray] * 3, -1))
    Image.fromarray(enlarged(gray, 2)).save(picture("high/a.png", array=enlarged(gray, 2)))
    found = open_pictures(tmp_path / "high", low=str(tmp_path / "low"))
    assert found["source"].channels == found["target"].channels == 3
    assert open_pictures(tmp_path / "high", None, 1, low=str(tmp_path / "low"))["source"].channels == 1
