"""fastgan data, in this process."""

import numpy as np
import pytest
from PIL import Image

from fastgan.cli import run


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """call("list"): exit code, stdout and stderr of `fastgan data list` in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run_it(*words):
        code = run(["data", *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_it


def test_list(call):
    code, out, _ = call("list")
    assert code == 0
    assert all(name in out for name in ("embedded", "mnist", "cifar10", "emoji", "landscapes"))


def test_help(call):
    code, out, _ = call("--help")
    assert code == 0
    assert all(word in out for word in ("list", "fetch", "info", "WebDataset"))
    code, out, _ = call("info", "--help")
    assert code == 0
    assert all(word in out for word in ("SOURCE", "--resolution", "--channels", "--out"))


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ([], 2, "{list, fetch, info}"),
        (["lost"], 2, "list, fetch, info"),
        (["fetch"], 2, "NAME"),
        (
            ["fetch", "mnst"],
            2,
            "fastgan: name: expected the name of a set that can be fetched, got 'mnst'; did you mean",
        ),
        (["info"], 2, "SOURCE"),
        (["info", "embedded", "--resolutoin", 8], 2, "--resolution"),
        (["info", "embedded", "--resolution", "large"], 2, "large"),
        (["info", "embedded", "--channels", 2], 2, "fastgan: channels: expected 1, 3 or None, got 2"),
        (["info", "pickled.npz"], 1, "pickled.npz"),
    ],
)
def test_errors(call, tmp_path, words, code, expected):
    np.savez(tmp_path / "pickled.npz", images=np.array([{"a": 1}], dtype=object))
    got, _, err = call(*words)
    assert got == code
    assert expected in err


def test_info_of_the_embedded_set(call, tmp_path):
    code, out, _ = call("info", "embedded", "--out", "grid.png")
    assert code == 0
    assert "10,000" in out
    assert "MIT" in out
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size[0] == grid.size[1]


def test_info_verifies_the_pack(call, tmp_path, own_cache):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), 50 * i).save(tmp_path / "photos" / f"{i}.png")
    code, out, _ = call("info", "photos")
    assert code == 0
    assert "photos: 3 images" in out
    (pack,) = (own_cache / "packs").glob("[!.]*")
    assert f"pack     {pack}, checksum ok" in out
    damaged = (pack / "images.npy").read_bytes()[:-1] + b"?"
    (pack / "images.npy").write_bytes(damaged)
    code, _, err = call("info", "photos")
    assert code == 1
    assert str(pack) in err
    assert "the checksum of images.npy is wrong" in err
    assert "delete it" in err
