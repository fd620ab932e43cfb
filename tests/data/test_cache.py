"""The pack cache: packs are built once, and survive kills, races, damage and changes of the source."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from fastgan.data import cache, open_source, pack, pixels
from fastgan.data.pack import check_pack
from fastgan.errors import DataError


@pytest.fixture
def folder(tmp_path, picture):
    """Three gray 4×4 images of the values 0, 1, 2, in two classes."""
    for i, name in enumerate(("cat/0.png", "cat/1.png", "dog/2.png")):
        picture(f"set/{name}", array=np.full((4, 4), i, np.uint8))
    return tmp_path / "set"


@pytest.fixture
def decoded(monkeypatch):
    """Counts the decoded images."""
    calls = []
    decode = pixels.decode
    monkeypatch.setattr(pixels, "decode", lambda *given: (calls.append(given), decode(*given))[1])
    return calls


def packs(own_cache):
    return sorted((own_cache / "packs").glob("[!.]*"))


def leftovers(own_cache):
    return sorted((own_cache / "packs").glob(".*.part"))


def test_images_are_decoded_once(folder, decoded, own_cache, monkeypatch):
    first, again = open_source(folder), open_source(folder)
    monkeypatch.chdir(folder.parent)
    relative = open_source("./set")
    assert len(decoded) == 3
    for images in (first, again, relative):
        assert isinstance(images.images, np.memmap)
        assert not images.images.flags.writeable
        assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2]
        assert images.labels is not None
        assert (images.labels.tolist(), images.class_names) == ([0, 0, 1], ("cat", "dog"))
        assert (images.name, images.skipped, images.pack) == ("set", 0, packs(own_cache)[0])
    (pack,) = packs(own_cache)
    assert sorted(path.name for path in pack.iterdir()) == ["images.npy", "labels.npy", "meta.json"]
    np.testing.assert_array_equal(np.load(pack / "images.npy"), first.images)
    check_pack(pack)


def test_each_size_and_color_has_its_pack(folder, own_cache):
    for options in ({}, {"resolution": 2}, {"channels": 3}, {"resolution": 2, "channels": 3}):
        assert open_source(folder, **options).images.shape[1:] == (
            options.get("channels", 1),
            *[options.get("resolution", 4)] * 2,
        )
    assert len(packs(own_cache)) == 4


def change_content(folder):
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(folder / "cat" / "0.png")


def change_time(folder):
    os.utime(folder / "cat" / "0.png", ns=(1, 1))


def change_name(folder):
    (folder / "cat" / "0.png").rename(folder / "cat" / "00.png")


def remove_one(folder):
    (folder / "cat" / "0.png").unlink()


def change_labels(folder):
    (folder / "dataset.json").write_text('{"labels": null}')


@pytest.mark.parametrize("change", [change_content, change_time, change_name, remove_one, change_labels])
def test_a_changed_source_is_packed_again_and_the_old_pack_removed(folder, decoded, own_cache, change):
    open_source(folder)
    other = open_source(folder, resolution=2)
    before = packs(own_cache)
    decoded.clear()
    change(folder)
    images = open_source(folder)
    assert len(decoded) == len(images)
    assert packs(own_cache) != before
    assert len(packs(own_cache)) == 2  # the pack of the other resolution stays
    assert other.pack in packs(own_cache)
    if change is change_content:
        assert images.images[0, 0, 0, 0] == 7


def test_another_format_is_packed_again(folder, decoded, own_cache, monkeypatch):
    open_source(folder)
    for module in (cache, pack):
        monkeypatch.setattr(module, "FORMAT", pack.FORMAT + 1)
    open_source(folder)
    assert len(decoded) == 6
    assert len(packs(own_cache)) == 1  # the outdated pack is removed


@pytest.mark.parametrize(
    ("file", "content"),
    [("meta.json", b"{}"), ("meta.json", None), ("images.npy", b""), ("labels.npy", None), ("images.npy", "longer")],
)
def test_a_damaged_pack_is_built_again(folder, decoded, own_cache, caplog, file, content):
    open_source(folder)
    (pack,) = packs(own_cache)
    if content == "longer":
        content = (pack / file).read_bytes() + b"x"
    (pack / file).unlink()
    if content is not None:
        (pack / file).write_bytes(content)
    assert open_source(folder).images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert len(decoded) == 6
    assert f"the pack in {pack} is damaged" in caplog.text
    check_pack(pack)
    assert packs(own_cache) == [pack]
    assert leftovers(own_cache) == []


def test_changed_bytes_are_found_by_the_checksum(folder, own_cache):
    open_source(folder)
    (pack,) = packs(own_cache)
    whole = (pack / "images.npy").read_bytes()
    (pack / "images.npy").write_bytes(whole[:-1] + b"\x09")
    with pytest.raises(DataError, match=rf"{pack} is damaged \(the checksum of images.npy is wrong\); delete it; it"):
        check_pack(pack)


def test_meta_json_lists_every_unreadable_image(folder, own_cache):
    (folder / "cat" / "0.png").write_bytes(b"no")
    with pytest.warns(UserWarning, match=r"left out \(.*meta\.json lists all"):
        open_source(folder)
    (pack,) = packs(own_cache)
    assert json.loads((pack / "meta.json").read_text())["skipped"] == ["cat/0.png"]


SLOW = """
import sys, time
from fastgan.data import open_source, pixels
decode = pixels.decode
def slow(*given):
    time.sleep({seconds})
    return decode(*given)
pixels.decode = slow
print(open_source(sys.argv[1]).images[:, 0, 0, 0].tolist())
"""


def start(folder, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", SLOW.format(seconds=seconds), folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("changed", [False, True])
def test_a_kill_while_packing(folder, own_cache, changed):
    process = start(folder, 60)
    wait_for(lambda: any((part / "images.npy").exists() for part in leftovers(own_cache)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(leftovers(own_cache)) == 1
    if changed:  # the incomplete pack then has another name
        change_time(folder)
    assert open_source(folder).images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert leftovers(own_cache) == []
    assert len(packs(own_cache)) == 1


def test_the_incomplete_pack_of_a_running_process_is_kept(folder, own_cache, picture, tmp_path):
    process = start(folder, 1)
    wait_for(lambda: leftovers(own_cache))
    picture("other/a.png")
    open_source(tmp_path / "other")
    assert len(leftovers(own_cache)) == 1
    said, error = process.communicate(timeout=60)
    assert said == "[0, 1, 2]\n", error


def test_two_processes_pack_once(folder, own_cache):
    first = start(folder, 1)
    wait_for(lambda: leftovers(own_cache))
    second = start(folder, 1000)  # it decodes nothing
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [said for said, _ in outputs] == ["[0, 1, 2]\n"] * 2
    assert "another process is packing" in outputs[1][1]
    assert len(packs(own_cache)) == 1
    assert leftovers(own_cache) == []


def test_without_locks_the_first_pack_stays(folder, own_cache, monkeypatch):
    """Another process builds the same pack between the check and the rename."""
    fcntl = pytest.importorskip("fcntl")

    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    build, nested = cache.build, []

    def build_twice(*given):
        if not nested:
            nested.append(True)
            nested.append(open_source(folder).pack.stat().st_ino)
        return build(*given)

    # Different process ids, for different temporary folders.
    monkeypatch.setattr(os, "getpid", lambda: len(nested))
    monkeypatch.setattr(cache, "build", build_twice)
    images = open_source(folder)
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert images.pack.stat().st_ino == nested[1]
    assert leftovers(own_cache) == []


def test_a_cache_that_cannot_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"set cannot be packed into .*file/packs: .*; set FASTGAN_CACHE to another"):
        open_source(folder)


def test_ctrl_c_leaves_no_files(folder, own_cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pixels, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_source(folder)
    assert packs(own_cache) == leftovers(own_cache) == []
