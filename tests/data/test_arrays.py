import gzip
import pickle

import numpy as np
import pytest

from fastgan.data import open_source
from fastgan.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 7), np.uint8)
GRAY = RGB[:, 0]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(GRAY, RGB[:, :1]), (RGB, RGB), (RGB.transpose(0, 2, 3, 1), RGB), (GRAY[..., None], RGB[:, :1])],
    ids=["NHW", "NCHW", "NHWC", "NHW1"],
)
@pytest.mark.parametrize("key", ["images", "arr_0"])
def test_npz_layouts(tmp_path, stored, expected, key):
    np.savez(tmp_path / "set.npz", **{key: stored, "other": np.zeros(3)})
    images = open_source(tmp_path / "set.npz")
    np.testing.assert_array_equal(images.images, expected)
    assert images.images.flags.c_contiguous
    assert (images.labels, images.name) == (None, "set")


@pytest.mark.parametrize("key", ["labels", "y"])
@pytest.mark.parametrize(
    "labels",
    [np.arange(5, dtype=np.uint8), np.arange(5)[:, None], np.arange(5.0), np.eye(5), np.eye(5, dtype=np.uint8)],
)
def test_npz_labels(tmp_path, key, labels):
    np.savez_compressed(tmp_path / "set.npz", images=GRAY, **{key: labels})
    read = open_source(tmp_path / "set.npz").labels
    assert read is not None
    assert read.dtype == np.int64
    assert read.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GRAY / 255}, "are float64; expected uint8"),
        ({"images": GRAY[0]}, r"shape \[6, 7\]; expected \[N, H, W\]"),
        ({"images": GRAY[:0]}, r"shape \[0, 6, 7\]"),
        ({"images": np.zeros((5, 4, 6, 6), np.uint8)}, r"shape \[5, 4, 6, 6\]; expected 1 or 3 channels"),
        ({"a": GRAY, "b": GRAY}, r"no key 'images', and several arrays fit \(a, b\)"),
        ({"a": GRAY / 255}, r"no key 'images', and no array fits \(it holds a\)"),
        ({}, r"no array fits \(it holds nothing\)"),
        ({"images": GRAY, "labels": np.arange(4)}, "has 4 labels for 5 images"),
        ({"images": GRAY, "y": np.full(5, 0.5)}, r"labels in .* are float64 \[5\]; expected one integer"),
        ({"images": GRAY, "y": np.full((5, 2), 0.5)}, r"labels in .* are float64 \[5, 2\] and not one-hot"),
        ({"images": GRAY, "y": np.full(5, np.nan)}, r"labels in .* are float64 \[5\]; expected one integer"),
        ({"images": GRAY, "y": np.zeros((5, 10), int)}, r"are int64 \[5, 10\] and not one-hot"),
        ({"images": GRAY, "y": np.arange(5) - 1}, "go down to -1"),
        ({"images": np.array([{}, None], object)}, "pickled objects, which are never opened"),
        ({"images": GRAY, "labels": np.array([{}] * 5, object)}, "pickled objects, which are never opened"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "set.npz")


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_npz_that_is_a_pickle_is_never_opened(tmp_path):
    (tmp_path / "set.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="pickled objects, which are never opened"):
        open_source(tmp_path / "set.npz")


def test_npz_damaged(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=RGB)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:-30], whole[:60] + b"\xff" * 40 + whole[100:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="download it again"):
            open_source(path)


def write_mnist(folder, idx_bytes, suffix="", labels_suffix="", labels=None):
    pack = gzip.compress if suffix else bytes
    labels_pack = gzip.compress if labels_suffix else bytes
    (folder / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(idx_bytes(GRAY)))
    if labels is not None:
        (folder / f"train-labels-idx1-ubyte{labels_suffix}").write_bytes(labels_pack(idx_bytes(labels)))
    return folder / f"train-images-idx3-ubyte{suffix}"


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("labels_suffix", ["", ".gz"])
def test_idx_with_labels_beside(tmp_path, idx_bytes, suffix, labels_suffix):
    labels = np.array([4, 0, 1, 1, 2], np.uint8)
    images = open_source(str(write_mnist(tmp_path, idx_bytes, suffix, labels_suffix, labels)))
    np.testing.assert_array_equal(images.images, RGB[:, :1])
    assert images.labels is not None
    assert images.labels.tolist() == labels.tolist()
    assert images.name == "train-images-idx3-ubyte"


def test_idx_without_labels(tmp_path, idx_bytes):
    assert open_source(write_mnist(tmp_path, idx_bytes)).labels is None
    (tmp_path / "pictures").write_bytes(idx_bytes(GRAY))
    assert open_source(tmp_path / "pictures").labels is None


def test_idx_label_count(tmp_path, idx_bytes):
    path = write_mnist(tmp_path, idx_bytes, labels=np.zeros(6, np.uint8))
    with pytest.raises(DataError, match="labels-idx1-ubyte has 6 labels for 5 images"):
        open_source(path)


def test_idx_of_labels_is_not_images(tmp_path, idx_bytes):
    write_mnist(tmp_path, idx_bytes, labels=np.zeros(5, np.uint8))
    with pytest.raises(DataError, match="holds labels: pass the file of images"):
        open_source(tmp_path / "train-labels-idx1-ubyte")


def test_any_other_file_is_no_idx(tmp_path):
    (tmp_path / "notes.txt").write_text("not pictures")
    with pytest.raises(DataError, match="not an IDX file"):
        open_source(tmp_path / "notes.txt")
