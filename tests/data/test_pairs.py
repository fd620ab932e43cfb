"""Pairs of images: side by side, by name, by order, made; and what cannot be a pair."""

import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from fastgan.data import made_sources
from fastgan.data.pairs import open_pairs
from fastgan.errors import DataError, UsageError


def image(seed, height=8, width=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def planes(array):
    return array.transpose(2, 0, 1)


@pytest.fixture
def halves(picture, tmp_path):
    """Three pictures of 8×16: image i on the left, image 10 + i on the right."""
    for i in range(3):
        picture(f"sides/{i}.png", array=np.concatenate([image(i), image(10 + i)], 1))
    return tmp_path / "sides"


@pytest.fixture
def folders(picture, tmp_path):
    """both/A and both/B: images of the same names, but other suffixes; one lies in a sub-folder."""
    for i, name in enumerate(("a.k", "a", "deep/c")):
        picture(f"both/A/{name}.png", array=image(i))
        picture(f"both/B/{name}.bmp", array=image(10 + i))
    return tmp_path / "both"


def test_halves_of_pictures_in_both_directions(halves):
    found = open_pairs(halves)
    turned = open_pairs(str(halves), direction="b-to-a")
    for i in range(3):
        np.testing.assert_array_equal(found["source"].images[i], planes(image(i)))
        np.testing.assert_array_equal(found["target"].images[i], planes(image(10 + i)))
        np.testing.assert_array_equal(turned["source"].images[i], planes(image(10 + i)))
        np.testing.assert_array_equal(turned["target"].images[i], planes(image(i)))


def test_halves_in_a_zip(halves, tmp_path):
    with zipfile.ZipFile(tmp_path / "sides.zip", "w") as archive:
        for path in sorted(halves.iterdir()):
            archive.write(path, path.name)
    found = open_pairs(tmp_path / "sides.zip", source_channels=1)
    np.testing.assert_array_equal(found["target"].images[2], planes(image(12)))
    np.testing.assert_array_equal(found["source"].images[2, 0], np.asarray(Image.fromarray(image(2)).convert("L")))


def test_each_half_is_cropped_and_resized_by_itself(picture, tmp_path):
    wide = image(0, 8, 24)
    picture("wide/0.png", array=np.concatenate([wide, 255 - wide], 1))
    found = open_pairs(tmp_path / "wide", 4)
    expected = np.asarray(Image.fromarray(wide[:, 8:16]).resize((4, 4), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(found["source"].images[0], planes(expected))


def test_the_halves_of_a_folder_are_not_its_images(halves):
    from fastgan.data import open_source

    whole, found, again = open_source(halves), open_pairs(halves), open_source(halves)
    assert whole.resolution == again.resolution == (8, 16)
    assert found["source"].resolution == (8, 8)
    assert len({whole.pack, found["source"].pack, found["target"].pack}) == 3


def test_folders_by_name(folders):
    for found in (open_pairs(folders), open_pairs(folders / "A", target=str(folders / "B"))):
        assert len(found["source"]) == 3
        sources = [found["source"].images[i].tobytes() for i in range(3)]
        for i in range(3):
            at = sources.index(np.ascontiguousarray(planes(image(i))).tobytes())
            np.testing.assert_array_equal(found["target"].images[at], planes(image(10 + i)))


def test_a_zip_beside_a_folder_by_name(folders, tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for path in sorted((folders / "B").rglob("*.bmp")):
            archive.write(path, path.relative_to(folders / "B").as_posix())
    found = open_pairs(folders / "A", target=str(tmp_path / "b.zip"))
    for name, images in open_pairs(folders).items():
        np.testing.assert_array_equal(found[name].images, images.images)


def test_shards_by_name(folders, tmp_path):
    for folder, shard in (("A", "first-0"), ("B", "second-7")):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for path in sorted((folders / folder).iterdir(), reverse=folder == "B"):
                if path.is_file() and path.stem != "a.k":
                    archive.add(path, path.name)
            path = next((folders / folder / "deep").iterdir())
            archive.add(path, f"c{path.suffix}")
    found = open_pairs(tmp_path / "first-0.tar", target=str(tmp_path / "second-7.tar"))
    for at, seed in enumerate((1, 2)):
        np.testing.assert_array_equal(found["source"].images[at], planes(image(seed)))
        np.testing.assert_array_equal(found["target"].images[at], planes(image(10 + seed)))


def test_pairs_of_which_one_is_damaged_are_left_out(folders, picture):
    (folders / "A/a.png").write_bytes(b"no image")
    for i in range(20, 24):
        picture(f"both/A/{i}.png", array=image(i))
        picture(f"both/B/{i}.bmp", array=image(10 + i))
    (folders / "B/21.bmp").write_bytes(b"nor this")
    with pytest.warns(UserWarning, match="cannot be read"):
        found = open_pairs(folders)
    assert len(found["source"]) == len(found["target"]) == 5
    # In the order of the names.
    for at, seed in enumerate((20, 22, 23, 0, 2)):
        np.testing.assert_array_equal(found["source"].images[at], planes(image(seed)))
        np.testing.assert_array_equal(found["target"].images[at], planes(image(10 + seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = open_pairs(folders)  # from the packs
    assert again["target"].pack == found["target"].pack


def test_array_files_by_order(tmp_path):
    arrays = {name: np.stack([planes(image(seed + i)) for i in range(4)]) for name, seed in (("a", 0), ("b", 10))}
    for name, array in arrays.items():
        np.savez(tmp_path / f"{name}.npz", images=array)
    found = open_pairs(tmp_path / "a.npz", target=str(tmp_path / "b.npz"), direction="b-to-a", source_channels=1)
    np.testing.assert_array_equal(found["target"].images, arrays["a"])
    assert found["source"].channels == 1


def test_gray_and_alpha_among_rgb_become_rgb(picture, tmp_path):
    for folder, modes in (("A", ("L", "RGB", "RGB")), ("B", ("RGB", "RGBA", "L"))):
        for i, mode in enumerate(modes):
            picture(f"modes/{folder}/{i}.png", mode)
    found = open_pairs(tmp_path / "modes")
    assert found["source"].channels == found["target"].channels == 3
    gray = found["source"].images[0]
    assert (gray == gray[:1]).all()


# --- made sources -----------------------------------------------------------------------------------------------------


@pytest.fixture
def targets(tmp_path):
    array = np.stack([planes(image(i, 16, 16)) for i in range(3)])
    array[0] = 200
    array[0, :, :, 8:] = 100
    np.savez(tmp_path / "t.npz", images=array)
    return tmp_path / "t.npz"


def test_edges_are_dark_where_the_picture_changes(targets):
    found = open_pairs(targets, make="edges")
    lines = found["source"].images[0, 0]
    assert found["source"].channels == 1
    assert (lines[:, 7:9] == 255 - round(255 * 50 / made_sources.STEEP)).all()  # Sobel: half of the step of 100
    assert (np.delete(lines, (7, 8), 1) == 255).all()


def test_gray_low_resolution_and_mask(targets):
    found = {make: open_pairs(targets, make=make) for make in ("gray", "low-resolution", "mask")}
    target = found["mask"]["target"].images
    expected = np.asarray(Image.fromarray(target[1].transpose(1, 2, 0)).convert("L"))
    np.testing.assert_array_equal(found["gray"]["source"].images[1, 0], expected)
    small = Image.fromarray(target[1].transpose(1, 2, 0)).resize((4, 4), Image.Resampling.BICUBIC)
    large = np.asarray(small.resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found["low-resolution"]["source"].images[1], planes(large))
    hidden = (found["mask"]["source"].images != target).any(1)
    places = set()
    for i in (1, 2):
        rows, columns = np.nonzero(hidden[i].any(1))[0], np.nonzero(hidden[i].any(0))[0]
        assert (np.ptp(rows), np.ptp(columns)) == (7, 7)
        assert (found["mask"]["source"].images[i][:, hidden[i]] == made_sources.FILL).all()
        places.add((rows[0], columns[0]))
    assert len(places) == 2
    again = open_pairs(targets, make="mask")["source"].images
    np.testing.assert_array_equal(again, found["mask"]["source"].images)


def test_a_function_of_the_users(targets, tmp_path):
    (tmp_path / "own.py").write_text(
        "def turned(image):\n    return 255 - image\n"
        "def numbered(image, i):\n    return image[..., 0] // 2 + i\n"
        "calls = []\n"
        "def counted(image):\n    calls.append(0)\n    return image * 0 + len(calls) - 1\n"
        "def broken(image):\n    raise RuntimeError('no')\n"
        "def floats(image):\n    return image / 255\n"
    )
    found = open_pairs(targets, make=f"{tmp_path}/own.py:turned")
    np.testing.assert_array_equal(found["source"].images, 255 - found["target"].images)
    numbered = open_pairs(targets, make=f"{tmp_path}/own.py:numbered")["source"].images
    np.testing.assert_array_equal(numbered[2, 0], found["target"].images[2, 0] // 2 + 2)
    # Each image once, in order.
    assert open_pairs(targets, make=f"{tmp_path}/own.py:counted")["source"].images[:, 0, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match=r"make: .*broken fails on image 0: RuntimeError: no"):
        open_pairs(targets, make=f"{tmp_path}/own.py:broken")
    with pytest.raises(UsageError, match=r"expected .*floats to return uint8 \[16, 16\].* got float64 \[16, 16, 3\]"):
        open_pairs(targets, make=f"{tmp_path}/own.py:floats")
    with pytest.raises(UsageError, match="has no function 'other'"):
        open_pairs(targets, make=f"{tmp_path}/own.py:other")


# --- what is no pair --------------------------------------------------------------------------------------------------


def test_images_without_a_partner_are_listed(folders, picture):
    picture("both/A/alone.png")
    picture("both/B/x.bmp")
    picture("both/B/y.bmp")
    with pytest.raises(DataError, match=r"for alone of \S*A in \S*B; nor for x, y of \S*B in \S*A; add the partners"):
        open_pairs(folders)


def test_pairs_of_different_size(folders, picture):
    picture("both/B/a.bmp", array=image(0, 8, 9))
    with pytest.raises(DataError, match=r"a\.png in \S*A is 8×8 and a\.bmp in \S*B 9×8 pixels"):
        open_pairs(folders, 8)


def test_a_picture_of_odd_width(halves, picture):
    picture("sides/odd.png", array=image(0, 8, 15))
    with pytest.raises(DataError, match=r"odd\.png in \S* is 15×8 pixels .* even width"):
        open_pairs(halves, 8)


def test_two_images_of_one_name(folders, picture):
    picture("both/B/a.png")
    with pytest.raises(DataError, match=r"a\.bmp and a\.png in \S*B would both be the partner"):
        open_pairs(folders)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"direction": "forth"}, "direction: expected a-to-b or b-to-a, got 'forth'"),
        ({"make": "edge"}, "make: unknown function 'edge'; did you mean 'edges'.*FILE.py:FUNCTION"),
        ({"make": "edges", "direction": "b-to-a"}, "make: sources are made from"),
        ({"make": "edges", "target": "x"}, "make: sources are made from"),
        ({"source_channels": 2}, "source_channels: expected 1, 3 or None, got 2"),
        ({}, "target: expected the other images of the pairs"),
    ],
)
def test_arguments_that_do_not_fit(targets, options, said):
    with pytest.raises(UsageError, match=said):
        open_pairs(targets, **options)


def test_sets_that_differ(targets, tmp_path):
    for name, shape in (("fewer", (2, 3, 16, 16)), ("smaller", (3, 3, 8, 8))):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match="t has 3 images and fewer 2"):
        open_pairs(targets, target=str(tmp_path / "fewer.npz"))
    with pytest.raises(DataError, match="t has images of 16×16 and smaller of 8×8"):
        open_pairs(targets, target=str(tmp_path / "smaller.npz"))
    for name, labels in (("one", [0, 1, 2]), ("two", [2, 1, 0])):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((3, 3, 8, 8), np.uint8), labels=np.array(labels))
    with pytest.raises(DataError, match="one and two have other labels"):
        open_pairs(tmp_path / "one.npz", target=str(tmp_path / "two.npz"))
