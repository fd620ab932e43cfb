"""Which folders are classes, in which order, and why they are none."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastgan.cli import run
from fastgan.data import open_source
from fastgan.data.cache import packs_dir
from fastgan.data.imageset import ImageSet
from fastgan.data.listing import natural
from fastgan.data.pack import META
from fastgan.data.stream import labels_of
from fastgan.errors import DataError, UsageError
from fastgan.metrics.evaluate import evaluate
from fastgan.metrics.registry import METRICS, Metric
from fastgan.runtime.labels import number_of

NUMBERS = [str(i) for i in range(12)]


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


@pytest.fixture
def numbered(tmp_path):
    for i in range(12):
        picture(tmp_path / "set" / str(i) / "x.png", i)
    return tmp_path / "set"


def test_classes_are_in_natural_order(numbered, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in numbered.rglob("*.png"):
            archive.write(path, path.relative_to(numbered))
    for source in (numbered, tmp_path / "a.zip"):
        images = open_source(source)
        assert images.class_names == tuple(NUMBERS)
        assert images.labels.tolist() == images.images[:, 0, 0, 0].tolist()
        assert number_of("10", 12, images.class_names) == 10


def test_natural_order():
    names = ["b", "class 10", "class 9", "a", "10", "9", "09", "1", "", "x2y10", "x2y9", "٣", "9" * 5000, "class"]
    expected = ["", "1", "09", "9", "10", "9" * 5000, "a", "b", "class", "class 9", "class 10", "x2y9", "x2y10", "٣"]
    assert sorted(names, key=natural) == expected


def test_a_pack_keeps_the_order_that_it_was_made_with(numbered):
    pack = open_source(numbered).pack
    meta = json.loads((pack / META).read_text())
    meta["class_names"] = sorted(NUMBERS)
    (pack / META).write_text(json.dumps(meta))
    images = open_source(numbered)
    assert images.class_names == tuple(sorted(NUMBERS))
    # There "10" has the number 2; its name says which class is meant.
    assert number_of("10", 12, images.class_names) == 2


def test_classes_in_the_order_of_another_run(numbered):
    images = open_source(numbered)
    old = images.with_classes(sorted(NUMBERS))
    assert [old.class_names[label] for label in old.labels] == [images.class_names[label] for label in images.labels]
    assert old.labels.tolist() != images.labels.tolist()
    with pytest.raises(DataError, match="set has other classes than the 2 named before: '0', '1', '10'"):
        images.with_classes(["a", "b"])


def test_a_run_of_an_older_version_keeps_its_numbers(numbered, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "run")
    quick = ["--width", "4", "--latent", "4", "--batch", "8", "--log-every", "2", "--compile", "off"]
    words = ["train", "mlp", "--data", str(numbered), "--condition", "concat", "--out", out, "--steps", "2", *quick]
    with monkeypatch.context() as old:
        old.setattr("fastgan.data.listing.natural", lambda name: name)
        assert run(words) == 0
    shutil.rmtree(packs_dir())
    assert run(["train", "--resume", out, "--steps", "4"]) == 0
    names = json.loads((tmp_path / "run" / "config.json").read_text())["dataset"]["class_names"]
    assert names == sorted(NUMBERS)
    capsys.readouterr()
    assert run(["sample", out, "--class", "10", "--n", "2", "--out", str(tmp_path / "a.png")]) == 0
    assert "2 images of class 2 ('10')" in capsys.readouterr().out


def test_a_metric_by_class_compares_the_same_class(numbered, monkeypatch):
    images = open_source(numbered)
    pixels = np.random.default_rng(0).integers(0, 255, (240, 1, 8, 8), np.uint8)
    labels = np.arange(240) % 12
    reference = ImageSet(pixels, labels, "a", "", images.class_names)
    other = reference.with_classes(sorted(NUMBERS))

    seen = []
    monkeypatch.setitem(METRICS, "diversity", Metric("", lambda comparison: seen.append(comparison) or [], False))
    evaluate(other, reference, metrics=["diversity"], n=240)
    (comparison,) = seen
    assert comparison.fake_labels.tolist() == comparison.real_labels.tolist()
    assert comparison.class_names == other.class_names


def test_a_stray_picture_is_named(numbered, tmp_path, capsys):
    picture(numbered / "stray.png", 99)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in numbered.rglob("*.png"):
            archive.write(path, path.relative_to(numbered))
    for source in (numbered, tmp_path / "a.zip"):
        for _ in range(2):  # packed, and from the pack
            images = open_source(source)
            assert images.labels is None
            assert len(images) == 13
            message = (
                r"labels: .* has none, as stray.png beside the 12 folders, such as '0', lies in none of them; move"
            )
            with pytest.raises(UsageError, match=message):
                labels_of(images)
        assert run(["data", "info", str(source)]) == 0
        assert "no labels: stray.png beside the 12 folders" in capsys.readouterr().out


def test_pictures_in_one_folder_and_beside_it_are_no_mistake(tmp_path):
    picture(tmp_path / "set" / "more" / "x.png", 1)
    picture(tmp_path / "set" / "y.png", 2)
    assert open_source(tmp_path / "set").why_unlabeled == ""


def test_backslashes_in_the_names_of_a_zip(tmp_path):
    content = {}
    for i, name in enumerate(
        ("top\\dog\\a.png", "top\\cat\\b.png", "top\\cat\\c.png", "__MACOSX\\d.png", "top\\.e.png")
    ):
        picture(tmp_path / "one.png", i)
        content[name] = (tmp_path / "one.png").read_bytes()

    def written(name, **more):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for each, data in ({"top\\": b""} | content | more).items():
                info = zipfile.ZipInfo("x")
                info.filename = each  # ZipFile itself would write slashes
                archive.writestr(info, data)
        return open_source(tmp_path / name)

    images = written("a.zip")
    assert (images.class_names, images.labels.tolist()) == (("cat", "dog"), [0, 0, 1])
    assert images.images[:, 0, 0, 0].tolist() == [1, 2, 0]
    labels = [["dog/a.png", 5], ["cat/b.png", 3], ["cat/c.png", 4]]
    images = written("b.zip", **{"top\\dataset.json": json.dumps({"labels": labels})})
    assert images.labels.tolist() == [3, 4, 5]


def test_class_names_and_numbers():
    names = ["cat", "dog", "7"]
    assert [number_of(label, 3, names) for label in ("cat", "dog", "7", 0, "1")] == [0, 1, 2, 0, 1]
    wrong = ("cta", "or a name, got 'cta'; .*did you mean 'cat'"), ("3", "or a name, got 3"), (-1, "or a name, got -1")
    for label, message in wrong:
        with pytest.raises(UsageError, match=f"class: expected a number from 0 to 2 {message}"):
            number_of(label, 3, names)
    with pytest.raises(UsageError, match=r"expected a number from 0 to 2, got 'cat'; the names .* are not stored"):
        number_of("cat", 3)
    with pytest.raises(UsageError, match="trained without labels"):
        number_of("cat", 0)


def test_names_of_classes_and_folders_need_not_be_utf8(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    for name in (b"na\xefve", b"x"):
        picture(folder / os.fsdecode(name) / "x.png", 3)
    for _ in range(2):  # packed, and opened
        images = open_source(folder)
        assert images.class_names == ("na\udcefve", "x")
        assert images.name == "caf\udce9"
