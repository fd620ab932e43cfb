"""An export target is added by one file: export(), the command line and the doctor find it in the folder."""

import contextlib
import json
import subprocess
import sys

import pytest

from fastgan import cli
from fastgan.errors import UsageError
from fastgan.export import export, targets

FILE = """
from fastgan.export.targets.base import Target, register


@register
class MadeUp(Target):
    name = "made-up"
    help = "a text file with the network's name"
    suffixes = (".txt",)
    packages = ({packages})
    install = "pip install made-up"
    precisions = ("fp32",)

    def write(self, prepared, path, calibration):
        path.write_text(type(prepared.network).__name__)
        return {{**prepared.facts, "bytes": path.stat().st_size, "parity": [], "limit": prepared.reference.limit}}

    @classmethod
    def status(cls):
        return "paper and pencil"
"""
NETWORK = """
from torch import nn

class Sharpen(nn.Conv2d):
    scale, channels = 1, 3
    def __init__(self):
        super().__init__(3, 3, 3, padding=1)
"""


@pytest.fixture
def add(tmp_path, monkeypatch):
    """add(packages=""): puts the file into a folder that belongs to the package of targets."""
    folder = tmp_path / "targets"
    folder.mkdir()

    def write(packages=""):
        (folder / "made_up.py").write_text(FILE.format(packages=packages))
        monkeypatch.setattr(targets, "__path__", [*targets.__path__, str(folder)])
        targets.registry.cache_clear()

    yield write
    sys.modules.pop("fastgan.export.targets.made_up", None)
    targets.base._registered.pop("made-up", None)
    targets.registry.cache_clear()


def test_export_and_the_command_line_write_it(add, make, tmp_path, monkeypatch, capsys):
    add()
    monkeypatch.chdir(tmp_path)
    report = export(make.Upscaler(), tmp_path / "a.txt", to="made-up")
    assert (tmp_path / "a.txt").read_text() == "Upscaler"
    assert json.loads((tmp_path / "a.txt.json").read_text()) == report
    assert (report["file"], report["to"]) == ("a.txt", "made-up")
    with pytest.raises(UsageError, match="precision: made-up supports fp32, got 'fp16'"):
        export(make.Upscaler(), tmp_path / "b.txt", to="made-up", precision="fp16")
    (tmp_path / "net.py").write_text(NETWORK)
    assert cli.run(["export", "net.py:Sharpen", "--to", "made-up", "--out", "c.txt"]) == 0
    assert "c.txt: made-up, fp32" in capsys.readouterr().out
    with pytest.raises(UsageError, match="to: expected one of aoti, made-up, onnx, tensorrt, triton, got 'tflite'"):
        export(make.Upscaler(), tmp_path / "d", to="tflite")


def test_help_and_doctor_know_it(add, capsys):
    add()
    with contextlib.suppress(SystemExit):  # tyro's, after --help
        cli.run(["export", "--help"])
    output = capsys.readouterr().out
    assert "--to {aoti,made-up,onnx,tensorrt,triton}" in output
    assert "a text file with the network's name" in " ".join(output.replace("│", " ").split())
    assert cli.run(["doctor"]) == 0
    assert "✓ made-up: paper and pencil" in capsys.readouterr().out


def test_a_missing_package_is_named_before_any_work(add, tmp_path, make, capsys):
    add(packages='"no_such_package",')
    sentence = "no_such_package is not installed; install it with: pip install made-up"
    with pytest.raises(UsageError, match=sentence):
        export(make.Upscaler(), tmp_path / "a.txt", to="made-up")
    assert not list(tmp_path.glob("*.txt"))
    assert cli.run(["doctor"]) == 0
    assert f"– made-up: {sentence}" in capsys.readouterr().out


def test_two_targets_of_one_name(add):
    add()
    targets.registry()
    with pytest.raises(ValueError, match="export target 'made-up' is registered twice"):
        exec(compile(FILE.format(packages=""), "other.py", "exec"), {"__name__": "other"})


def test_listing_the_targets_imports_none_of_their_libraries():
    code = (
        "import sys; from fastgan.export import targets; print(*targets.registry())\n"
        "print([m for m in ('torch', 'onnxruntime', 'onnx', 'onnxscript', 'tensorrt') if m in sys.modules])"
    )
    names, loaded = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert names == "aoti onnx tensorrt triton"
    assert loaded == "[]"
