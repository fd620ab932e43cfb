import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from fastgan.data import open_source
from fastgan.errors import DataError


def png(value, size=(4, 4), kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.full(size, value, np.uint8)).save(file, kind)
    return file.getvalue()


def write_zip(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return path


def values(images):
    return images.images[:, 0, 0, 0].tolist()


BUCKETS = {f"0000{i // 2}/img0000000{i}.png": png(i) for i in range(4)}
LABELS = [["00001/img00000003.png", 0], ["00000/img00000000.png", 7], ["00000/img00000001.png", 2],
          ["00001/img00000002.png", 2], ["00009/gone.png", 1]]  # fmt: skip


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["", "faces/"])
def test_stylegan_zip(tmp_path, compression, top):
    files = {"dataset.json": {"labels": LABELS}, **dict(reversed(BUCKETS.items()))}
    write_zip(tmp_path / "faces.zip", {top + name: content for name, content in files.items()}, compression)
    images = open_source(str(tmp_path / "faces.zip"))
    assert (values(images), images.channels, images.name) == ([0, 1, 2, 3], 1, "faces")
    assert images.labels is not None
    assert (images.labels.tolist(), images.class_names) == ([7, 2, 2, 0], None)
    assert [path.name for path in tmp_path.iterdir()] == ["faces.zip"]  # nothing is unpacked


@pytest.mark.parametrize("stated", [{}, {"dataset.json": {"labels": None}}])
def test_bucket_folders_are_not_classes(tmp_path, stated):
    assert open_source(write_zip(tmp_path / "a.zip", {**BUCKETS, **stated})).labels is None


@pytest.mark.parametrize("top", ["", "photos/of/"])
def test_folders_are_classes_where_no_dataset_json_says_otherwise(tmp_path, top):
    files = {f"{top}{name}.png": png(i) for i, name in enumerate(("dog/a", "cat/x/b", "cat/c"))}
    images = open_source(write_zip(tmp_path / "a.zip", {**files, "dataset.json": {"author": "me"}}))
    assert images.labels is not None
    assert (values(images), images.labels.tolist(), images.class_names) == ([2, 1, 0], [0, 0, 1], ("cat", "dog"))
    write_zip(tmp_path / "a.zip", {**files, "dataset.json": {"labels": None}})
    assert open_source(tmp_path / "a.zip").labels is None
    write_zip(tmp_path / "a.zip", {**files, f"{top}loose.png": png(9)})
    assert open_source(tmp_path / "a.zip").labels is None


def test_a_single_folder_is_not_a_class(tmp_path):
    assert open_source(write_zip(tmp_path / "a.zip", {"photos/a.png": png(1), "photos/b.png": png(2)})).labels is None


def test_hidden_members_and_other_files_are_skipped(tmp_path):
    other = ("__MACOSX/a.png", "__MACOSX/._b.png", ".thumbs/c.png", "d/.e.png", "notes.txt")
    files = {"a.png": png(5), **{name: png(9, (2, 2)) for name in other}}
    assert values(open_source(write_zip(tmp_path / "a.zip", files))) == [5]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a.png", [0.0, 1.0]], ["b.png", [1.0, 0.0]]], "label of a.png in .* is a list; expected a class number"),
        ([["a.png", 1], ["b.png", -1]], "label of b.png in .* is -1; expected a class number: 0, 1, 2"),
        ([["a.png", 1], ["b.png", True]], "is True; expected a class number"),
        ([["a.png", 1.0], ["b.png", 1]], "is 1.0; expected a class number"),
        ([["a.png", 1]], r'has no label for 1 of 2 images, such as b.png; add them, or write {"labels": null}'),
        ([1, 2], r'"labels" in .*a.zip/dataset.json is not a list of \[name, class number\]'),
    ],
)
def test_labels_that_do_not_fit(tmp_path, labels, message):
    files = {"a.png": png(1), "b.png": png(2), "dataset.json": {"labels": labels}}
    with pytest.raises(DataError, match=message):
        open_source(write_zip(tmp_path / "a.zip", files))


def test_an_invalid_dataset_json(tmp_path):
    with pytest.raises(DataError, match=r"a.zip/dataset.json is not JSON .*; correct or remove it"):
        open_source(write_zip(tmp_path / "a.zip", {"a.png": png(1), "dataset.json": b"{"}))


def test_a_damaged_member_is_left_out(tmp_path):
    """The checksum of the zip detects what the image's decoder does not, though it stops reading before the end."""
    names = [f"{i}.bmp" for i in range(3)]
    path = write_zip(tmp_path / "a.zip", {name: png(i, kind="BMP") + bytes(200_000) for i, name in enumerate(names)})
    with zipfile.ZipFile(path) as archive:
        second = archive.getinfo("1.bmp")
    whole = bytearray(path.read_bytes())
    whole[second.header_offset + 30 + len("1.bmp") + len(png(1, kind="BMP")) - 3] ^= 1
    path.write_bytes(whole)
    with pytest.warns(UserWarning, match=r"1 of 3 images in .*a\.zip cannot be read: 1\.bmp; they are left out"):
        images = open_source(path)
    assert (values(images), images.skipped) == ([0, 2], 1)


def test_a_member_that_claims_a_huge_size_is_left_out(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", {"a.png": png(1), "b.png": png(2) + bytes(10_000)}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr("fastgan.data.listing._MAX_FILE", 5_000)
    with pytest.warns(UserWarning, match=r"cannot be read: b\.png;"):
        assert values(open_source(path)) == [1]


def test_an_incomplete_zip(tmp_path):
    path = write_zip(tmp_path / "a.zip", BUCKETS)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"not a readable zip file .*; download it again"):
            open_source(path)


def test_encrypted(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.png": png(1)})
    whole = bytearray(path.read_bytes())
    whole[6] |= 1
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match="is encrypted; unpack it and pass the folder"):
        open_source(path)


def test_empty_and_mixed(tmp_path):
    with pytest.raises(DataError, match=r"^no images \(bmp, jpeg, jpg, png, webp\) in .*; it holds .* such as a.tif:"):
        open_source(write_zip(tmp_path / "a.zip", {"x/a.tif": b""}))
    with pytest.raises(DataError, match=r"have 2 sizes, such as 4×4 and 5×6 .*; pass resolution"):
        open_source(write_zip(tmp_path / "a.zip", {"a.png": png(1), "b.png": png(2, (5, 6)), "c.png": png(3)}))
    assert open_source(tmp_path / "a.zip", resolution=3, channels=3).images.shape == (3, 3, 3, 3)
