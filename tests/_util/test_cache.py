"""The cache directory: entries that are damaged or another's, that cannot be written, and no place for it."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fastgan._util import autotune, cache, env
from fastgan._util.hashing import file_sha256
from fastgan.errors import DataError, UsageError
from fastgan.upscale import pretrained, upscaler


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_entry_is_bound_to_its_key_and_content(tmp_path):
    one, other = tmp_path / "folder" / "one", tmp_path / "folder" / "other"
    cache.store(one, "key", b"data")
    assert cache.load(one, "key") == b"data"
    with pytest.raises(FileNotFoundError):
        cache.load(other, "key")
    shutil.copy(one, other)
    whole = one.read_bytes()
    for path, key, content in (
        (other, "another key", whole), (one, "key", whole[:-1]), (one, "key", whole + b"x"), (one, "key", whole[:30]),
        (one, "key", b""), (one, "key", whole[:-1] + b"b"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged, or of something else"):
            cache.load(path, key)
    # Where the key ends and the data begins is part of the seal.
    cache.store(one, "keyd", b"ata")
    with pytest.raises(ValueError, match="damaged"):
        cache.load(one, "key")


def exported(weights):
    """What `open_upscaler` does with weights, without its check of the network."""
    return upscaler._exported(upscaler._weights_of(str(weights), ()), lambda spec: None)


@pytest.fixture
def exports(monkeypatch):
    """Replaces `export`: [weights that were exported]."""
    calls = []

    def export(network, path, *, about, overwrite):
        assert overwrite
        calls.append(network)
        path.write_bytes(b"onnx of " + network)
        report = {"file": path.name, "fastgan": "0", **about, "sha256": file_sha256(path)}
        path.with_name(path.name + ".json").write_text(__import__("json").dumps(report))

    monkeypatch.setattr("fastgan.export.api.export", export)
    monkeypatch.setattr("fastgan.export.source.open_network", lambda path, names: path.read_bytes())
    monkeypatch.setattr(upscaler, "spec_of", lambda network: None)
    return calls


def test_damaged_and_foreign_exports_are_made_again(tmp_path, exports):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = tmp_path / "a" / "net.pth", tmp_path / "b" / "net.pth"
    a.write_bytes(b"A")
    b.write_bytes(b"B")
    first, second = exported(a), exported(b)
    assert exported(a) == first != second
    assert exports == [b"A", b"B"]
    first.write_bytes(first.read_bytes()[:3])
    assert exported(a).read_bytes() == b"onnx of A"
    for suffix in ("", ".json"):  # the file alone, and then with its report
        shutil.copy(f"{second}{suffix}", f"{first}{suffix}")
        assert exported(a).read_bytes() == b"onnx of A"
        shutil.copy(second, first)
    assert exported(a).read_bytes() == b"onnx of A"
    assert exports == [b"A", b"B"] + [b"A"] * 4
    first.with_name(first.name + ".json").write_text("[" * 100_000)
    assert exported(a).read_bytes() == b"onnx of A"


def test_a_foreign_pack_is_packed_again(tmp_path, own_cache):
    from fastgan.data import open_source

    for name, value in (("a", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / name / f"{i}.png")
    first, second = (open_source(str(tmp_path / name)).pack for name in "ab")
    shutil.rmtree(first)
    shutil.copytree(second, first)
    assert open_source(str(tmp_path / "a")).images.max() == 10
    assert list(own_cache.rglob("*.part")) == []


def test_foreign_features_are_computed_again(own_cache, caplog):
    from types import SimpleNamespace

    import torch

    from fastgan.metrics.features import Features, features_path, reference_features

    class Extractor(SimpleNamespace):
        def __call__(self, images):
            mean = torch.from_numpy(images.astype(np.float32)).mean((1, 2, 3))[:, None]
            return Features(mean, mean)

    extractor = Extractor(key="mean", dim=1)
    dark, light = np.zeros((3, 1, 2, 2), np.uint8), np.full((3, 1, 2, 2), 200, np.uint8)
    for images in (dark, light):
        reference_features(extractor, images)
    shutil.copy(features_path(extractor, dark), features_path(extractor, light))
    assert reference_features(extractor, light).features.tolist() == [[200.0]] * 3
    assert "is damaged, or of something else" in caplog.text


@pytest.mark.parametrize("what", ["network", "set", "extractor", "export"])
def test_an_unwritable_cache_is_noticed_before_the_work(own_cache, tmp_path, monkeypatch, what):
    from fastgan.data import fetch
    from fastgan.models.backbones import weights

    def never(*given, **options):
        raise AssertionError("the work has begun")

    for name in ("fastgan._util.packages._run", "fastgan.export.api.export"):
        monkeypatch.setattr(name, never)
    monkeypatch.setattr("fastgan.export.source.open_network", lambda path, names: None)
    monkeypatch.setattr(upscaler, "spec_of", lambda network: None)
    (tmp_path / "weights").touch()
    own_cache.write_text("a file in the place of the folder")
    work = {
        "network": lambda: pretrained.fetch("realesr-animevideov3-x4"),
        "set": lambda: fetch("mnist"),
        "extractor": lambda: weights.fetch_weights(weights.EFFICIENTNET),
        "export": lambda: exported(tmp_path / "weights"),
    }
    with pytest.raises((DataError, UsageError), match="set FASTGAN_CACHE to another directory"):
        work[what]()


def test_no_home_and_no_entry_in_the_list_of_users(tmp_path):
    code = "import pwd; pwd.getpwuid = {}.__getitem__; from fastgan.cli import main; main()"
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    words = [sys.executable, "-c", code, "models", "fetch", "realesr-animevideov3-x4"]
    done = subprocess.run(
        words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        "fastgan: there is no home directory for the cache: set FASTGAN_CACHE to a directory that may be written\n"
    )
    assert "Traceback" not in done.stderr


def test_without_a_home_measurements_live_in_memory(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTGAN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(env.Path, "home", none)
    with pytest.raises(UsageError, match="set FASTGAN_CACHE"):
        env.cache_dir()
    store = autotune.open_store("kernels", {"device": "x"})
    with pytest.warns(RuntimeWarning, match="the cache has no place, so kernels are measured again"):
        store.put("key", {"a": 1})
    assert store.get("key") == {"a": 1}
    assert env.user_path("~nobody-of-that-name/x") == env.Path("~nobody-of-that-name/x")
