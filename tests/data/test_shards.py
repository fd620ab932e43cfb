import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from fastgan.data import open_source
from fastgan.errors import DataError, UsageError


def picture(value, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(file, kind)
    return file.getvalue()


def write_tar(path, files, mode="w"):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def values(images):
    return images.images[:, 0, 0, 0].tolist()


def test_samples_share_a_name_up_to_the_first_dot(tmp_path):
    files = {"b.png": picture(1), "b.cls": "3\n", "a.cls": b"0", "a.JPG": picture(2, "JPEG"), "a.caption.txt": "hello"}
    images = open_source(write_tar(tmp_path / "train.tar", files))
    assert (values(images), images.name) == ([1, 2], "train")  # in the order of the shard
    assert images.labels is not None
    assert images.labels.tolist() == [3, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["train.tar"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "PPM"])
def test_kinds(tmp_path, kind):
    images = open_source(write_tar(tmp_path / "a.tar", {f"./x/a.{kind.lower()}": picture(200, kind)}))
    assert abs(values(images)[0] - 200) <= 2
    assert images.labels is None


def test_labels_in_json(tmp_path):
    files = {"a.png": picture(1), "a.json": '{"label": 4}', "b.png": picture(2), "b.json": '{"label": 1}', "b.cls": "9"}
    labels = open_source(write_tar(tmp_path / "a.tar", files)).labels
    assert labels is not None
    assert labels.tolist() == [4, 9]
    files = {"a.png": picture(1), "a.json": '{"text": "x"}', "b.png": picture(2), "b.json": '{"label": null}'}
    assert open_source(write_tar(tmp_path / "a.tar", files)).labels is None


def shards(folder, count):
    for i in range(count):
        write_tar(folder / f"train-{i:03}.tar", {f"{j}.png": picture(10 * i + j) for j in range(2)})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("train-{000..002}.tar", [0, 1, 10, 11, 20, 21]),
        ("train-{001..002}.tar", [10, 11, 20, 21]),
        ("train-{0..1}{00..00}.tar", None),
        ("train-0{0..1}{0..1}.tar", None),
        ("", [0, 1, 10, 11, 20, 21]),
    ],
)
def test_several_shards_in_order(tmp_path, pattern, expected):
    shards(tmp_path / "set", 3)
    (tmp_path / "set" / "sizes.json").write_text("{}")
    source = f"{tmp_path}/set/{pattern}"
    if expected is None:
        with pytest.raises(DataError, match=r"names .*/train-(100|010)\.tar, which does not exist; download it"):
            open_source(source)
    else:
        images = open_source(source)
        assert (values(images), images.name) == (expected, "train" if pattern else "set")


def test_a_descending_range(tmp_path):
    with pytest.raises(UsageError, match=r"expected an ascending range, got \{3\.\.1\}"):
        open_source(f"{tmp_path}/a-{{3..1}}.tar")


def test_numbers_without_zeros(tmp_path):
    for i in (9, 10):
        write_tar(tmp_path / f"a{i}.tar", {"x.png": picture(i)})
    assert values(open_source(tmp_path / "a{9..10}.tar")) == [9, 10]


def test_a_folder_with_pictures_is_no_folder_of_shards(tmp_path):
    shards(tmp_path / "set", 1)
    (tmp_path / "set" / "x.png").write_bytes(picture(99))
    assert values(open_source(tmp_path / "set")) == [99]


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_nothing_is_unpickled(tmp_path):
    trap = pickle.dumps(Trap())
    files = {"a.png": picture(1), **{f"a.{kind}": trap for kind in ("pyd", "pkl", "pth", "npy")}}
    assert values(open_source(write_tar(tmp_path / "a.tar", files))) == [1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": "x"}, r"no images \(bmp, jpeg, jpg, png, webp, ppm\) in .*a\.tar; it holds .* such as a\.txt"),
        ({"a.png": picture(1), "a.cls": "cat"}, r"label of a\.tar/a\.cls is 'cat'; expected a class number"),
        ({"a.png": picture(1), "a.cls": "-1"}, "is '-1'; expected a class number"),
        ({"a.png": picture(1), "a.json": '{"label": [1]}'}, r"label of a\.tar/a\.json is a list; expected"),
        ({"a.png": picture(1), "a.json": "{"}, r"a\.tar/a\.json is not JSON"),
        ({"a.png": picture(1), "a.cls": "1", "b.png": picture(2)}, r"1 of 2 samples in .* no label, such as a\.tar/b"),
        ({"a.png": picture(1), "a.jpg": picture(2, "JPEG")}, r"a\.tar/a\.png and a\.jpg are images of the same sample"),
        ({"a.v1.png": picture(1), "a.v2.png": picture(2)}, r"a\.v1\.png and a\.v2\.png are images of the same sample"),
    ],
)
def test_what_does_not_fit(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        open_source(write_tar(tmp_path / "a.tar", files))


def test_a_mask_is_not_taken_for_the_image(tmp_path):
    files = {"a.jpg": picture(8, "JPEG"), "a.mask.png": picture(99), "b.photo.png": picture(50)}
    assert values(open_source(write_tar(tmp_path / "a.tar", files))) == [8, 50]


def test_links_and_hidden_files_are_skipped(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.png": picture(1), "._a.png": b"no", "x/.b.png": b"no"})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert values(open_source(path)) == [1]


def test_a_truncated_picture_is_left_out_with_its_label(tmp_path):
    files = {}
    for i in range(3):
        files |= {f"{i}.png": picture(i) if i != 1 else picture(i)[:-25], f"{i}.cls": str(i)}
    with pytest.warns(UserWarning, match=r"1 of 3 images in .*a\.tar cannot be read: a\.tar/1\.png; they are left out"):
        images = open_source(write_tar(tmp_path / "a.tar", files))
    assert images.labels is not None
    assert (values(images), images.labels.tolist()) == ([0, 2], [0, 2])


def test_a_damaged_shard_is_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"{i}.png": picture(i) for i in range(9)})
    whole = path.read_bytes()
    for damaged in (
        whole[:700],
        whole[: 5 * 1024 + 100],
        whole[: 5 * 1024],
        whole[: 5 * 1024 + 900],
        b"not a tar" * 100,
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"is not a complete, uncompressed tar file .*; download it again"):
            open_source(path)
    write_tar(path, {"a.png": picture(1)}, "w:gz")
    with pytest.raises(DataError, match="or decompress it"):
        open_source(path)


def test_json_without_an_object_is_ignored(tmp_path):
    files = {"a.png": picture(1), "a.json": json.dumps(["no", "object"])}
    assert open_source(write_tar(tmp_path / "a.tar", files)).labels is None
