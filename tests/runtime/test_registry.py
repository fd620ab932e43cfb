"""A back-end is added by one file: Session, the command line and the doctor find it in the folder."""

import subprocess
import sys

import numpy as np
import pytest

from fastgan import cli
from fastgan.errors import UsageError
from fastgan.runtime import Session, backends

FILE = """
import numpy as np

from fastgan.runtime.backends.base import Backend, Port, register


@register
class MadeUp(Backend):
    name = "made-up"
    suffixes = (".made",{more})
    package = "{package}"
    install = "pip install made-up"

    def __init__(self, path, device, threads):
        from fastgan.runtime.spec import Spec

        self.title, self.provider, self.device, self.threads = "MadeUp 1.0", "paper", "cpu", threads
        self.notes, self.inputs, self.outputs = [], [Port("z", (), "float32")], []
        self.stated = Spec("latent", latent_shape=(2,), channels=1), {{"precision": "exact"}}

    def run(self, x, y=None, *, pixels=False):
        return np.broadcast_to(x.sum(1)[:, None, None, None], (len(x), 1, 2, 2)).astype(np.float32)

    @classmethod
    def status(cls):
        return "MadeUp 1.0 is ready"
"""


@pytest.fixture
def add(tmp_path, monkeypatch):
    """add(package="numpy", more=""): puts the file into a folder that belongs to the package of back-ends."""
    folder = tmp_path / "backends"
    folder.mkdir()

    def write(package="numpy", more=""):
        (folder / "made_up.py").write_text(FILE.format(package=package, more=more))
        monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(folder)])
        backends.registry.cache_clear()

    yield write
    sys.modules.pop("fastgan.runtime.backends.made_up", None)
    backends.base._registered.pop("made-up", None)
    backends.registry.cache_clear()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.made"
    path.write_bytes(b"")
    return path


def test_session_finds_it_by_suffix_and_by_name(add, model):
    add()
    for name in ("auto", "made-up"):
        session = Session(model, backend=name)
        assert session.backend == "made-up"
        assert session(np.array([[1, 2]], np.float32)).tolist() == [[[[3.0, 3.0], [3.0, 3.0]]]]
        assert "back-end: made-up (MadeUp 1.0) on paper" in session.describe()
        assert session.about == {"precision": "exact"}
    with pytest.raises(UsageError, match=r"backend: torch does not run \.made files; expected made-up"):
        Session(model, backend="torch")


def test_it_competes_for_the_files_of_others(add, generator):
    add(more=' ".onnx"')
    session = Session(generator[1], threads=1)
    assert "made-up" in {**session.choice.milliseconds, **session.choice.unavailable}


def test_the_command_line_and_the_doctor_know_it(add, model, capsys):
    add()
    assert cli.run(["bench", str(model), "--backends", "made-up", "--seconds", "0.01", "--batches", "1"]) == 0
    assert "made-up" in capsys.readouterr().out
    assert cli.run(["bench", str(model), "--backends", "none"]) == 2
    assert "expected auto or some of aoti, compile, made-up, onnxruntime" in capsys.readouterr().err
    assert cli.run(["doctor"]) == 0
    assert "✓ made-up: MadeUp 1.0 is ready" in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_install_command(add, model, capsys):
    add(package="no_such_package")
    sentence = "no_such_package is not installed; install it with: pip install made-up"
    with pytest.raises(UsageError, match=sentence):
        Session(model)
    assert cli.run(["doctor"]) == 0
    assert f"– made-up: {sentence}" in capsys.readouterr().out


def test_two_back_ends_of_one_name(add):
    add()
    backends.registry()
    with pytest.raises(ValueError, match="back-end 'made-up' is registered twice"):
        exec(compile(FILE.format(package="numpy", more=""), "other.py", "exec"), {"__name__": "other"})


def test_listing_the_back_ends_imports_none_of_their_libraries():
    code = (
        "import sys; from fastgan.runtime import backends; print(*backends.registry())\n"
        "print([m for m in ('torch', 'onnxruntime', 'openvino', 'onnx', 'tensorrt') if m in sys.modules])"
    )
    names, loaded = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert names == "aoti compile onnxruntime openvino tensorrt torch"
    assert loaded == "[]"
