import hashlib

import numpy as np
import pytest
from PIL import Image

from fastgan.data import known, open_source
from fastgan.errors import DataError, UsageError


def test_embedded_is_the_fashion_mnist_test_set():
    images = open_source()
    assert images.images.shape == (10_000, 1, 28, 28)
    assert images.labels is not None
    assert images.class_names is not None
    assert np.bincount(images.labels).tolist() == [1000] * 10
    assert [images.class_names[i] for i in images.labels[:4]] == ["Ankle boot", "Pullover", "Trouser", "Trouser"]
    # sha256 of the ten thousand pictures as the distribution's package has them, without the IDX header
    sha256 = hashlib.sha256(images.images.tobytes()).hexdigest()
    assert sha256 == "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"
    assert "MIT" in images.license


def write(path, images):
    np.savez(path, images=images)
    return path


def test_conversion_of_arrays(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (600, 3, 6, 10), np.uint8)
    path = write(tmp_path / "set.npz", rgb)
    out = open_source(path, resolution=4, channels=1).images
    assert out.shape == (600, 1, 4, 4)
    for i in (0, 255, 256, 599):  # each side of a worker's strip
        image = Image.fromarray(rgb[i].transpose(1, 2, 0)).convert("L").crop((2, 0, 8, 6))
        np.testing.assert_array_equal(out[i, 0], np.asarray(image.resize((4, 4), Image.Resampling.LANCZOS)))


def test_crop_alone_keeps_pixels(tmp_path):
    gray = np.arange(2 * 6 * 9, dtype=np.uint8).reshape(2, 6, 9)
    path = write(tmp_path / "set.npz", gray)
    np.testing.assert_array_equal(open_source(path, resolution=6).images[:, 0], gray[:, :, 1:7])
    colored = open_source(path, channels=3).images
    np.testing.assert_array_equal(colored, np.repeat(gray[:, None], 3, axis=1))


def test_channels_and_resolution_as_they_are_change_nothing(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 4), np.uint8)
    path = write(tmp_path / "set.npz", rgb)
    np.testing.assert_array_equal(open_source(path, resolution=4, channels=3).images, rgb)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": ""}, "source: expected a name or a path, got ''"),
        ({"channels": 2}, "channels: expected 1, 3 or None, got 2"),
        ({"resolution": 0}, "resolution: expected an integer .* got 0"),
        ({"resolution": 64.0}, "resolution: .* got 64.0"),
        ({"resolution": 10**6}, "resolution: .* got 1000000"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        open_source(**options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("embeded", "no such source: 'embeded'; did you mean 'embedded'"),
        ("fashon-mnist", "did you mean 'fashion-mnist'"),
        ("/nowhere/at/all", "no such source: '/nowhere/at/all'; pass a path, or one of embedded, cifar10"),
        ("mnist", "mnist is not fetched yet: run `fastgan data fetch mnist`$"),
        ("mnist:test", "mnist is not fetched yet: run `fastgan data fetch mnist`$"),
        ("mnist:valid", "mnist has no split 'valid'; choose one of mnist, mnist:test"),
    ],
)
def test_no_such_source(source, message):
    with pytest.raises(DataError, match=message):
        open_source(source)


def test_a_folder_named_like_a_set(tmp_path, monkeypatch, picture):
    picture("mnist/a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"not fetched yet: .* \(for the folder of that name, write ./mnist\)"):
        open_source("mnist")
    assert len(open_source("./mnist")) == 1


def test_a_single_image_is_no_source(picture):
    with pytest.raises(DataError, match="is a single image; pass the folder"):
        open_source(picture("a.png"))


def test_known_sets_are_complete():
    assert list(known()) == ["cifar10", "emoji", "fashion-mnist", "landscapes", "mnist"]
    for name, entry in known().items():
        assert entry.name == entry.sources[0] == name
        assert all(split.license for split in entry.splits.values())
        assert all(len(sha256) == 64 for package in entry.packages for sha256 in package.files.values())
    known().clear()
    assert known()
