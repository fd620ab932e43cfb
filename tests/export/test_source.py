import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
from torch import nn

from fastgan.cli._source import open_source
from fastgan.errors import UsageError
from fastgan.export.source import open_network

CODE = """
from dataclasses import dataclass
from torch import nn
import beside

@dataclass
class Width:
    n: int = 3

class Upscaler(nn.Conv2d):
    scale, channels = 1, 3
    def __init__(self):
        super().__init__(Width().n, beside.WIDTH, 1)

ready = Upscaler()
def make():
    return Upscaler()
def broken():
    raise ValueError("no weights here")
number = 7
def text():
    return "network"
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    (tmp_path / "mine.py").write_text(CODE)
    yield tmp_path / "mine.py"
    sys.modules.pop("beside", None)
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("name", ["ready", "make", "Upscaler"])
def test_a_module_of_the_users(code, name):
    path = list(sys.path)
    network = open_network(f"{code}:{name}")
    assert isinstance(network, nn.Conv2d)
    assert network.scale == 1
    assert sys.path == path


def test_a_module_of_a_package():
    assert isinstance(open_network("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", "has no 'missing'"),
        ("broken", r"broken\(\) of .* fails: ValueError: no weights here"),
        ("number", "must be or return a torch.nn.Module, got int"),
        ("text", "must be or return a torch.nn.Module, got str"),
    ],
)
def test_objects_that_are_no_network(code, name, sentence):
    with pytest.raises(UsageError, match=sentence):
        open_network(f"{code}:{name}")


def test_missing_and_failing_code(tmp_path):
    with pytest.raises(UsageError, match=r"source: .*nowhere\.py is not a file"):
        open_network(tmp_path / "nowhere.py:make")
    with pytest.raises(UsageError, match=r"source: no\.such\.package cannot be imported: No module named"):
        open_network("no.such.package:make")
    (tmp_path / "bad.py").write_text("import no_such_thing\n")
    with pytest.raises(UsageError, match=r"bad\.py fails: ModuleNotFoundError: No module named 'no_such_thing'"):
        open_network(f"{tmp_path}/bad.py:make")
    assert "bad" not in sys.modules


def stand_in(monkeypatch, name, **content):
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    package, _, own = name.rpartition(".")
    monkeypatch.setattr(importlib.import_module(package), own, module, raising=False)


def test_files_and_names(tmp_path, monkeypatch):
    import fastgan.models

    assert fastgan.models
    weights = tmp_path / "fetched.param"
    weights.write_text("7767517")
    stand_in(monkeypatch, "fastgan.models.esrgan", load=lambda path: SimpleNamespace(loaded=path))
    stand_in(monkeypatch, "fastgan.upscale.pretrained", KNOWN={"realesr-x2": 1}, fetch=lambda name: weights)
    assert open_source("realesr-x2") == (SimpleNamespace(loaded=weights), None, {"source": "realesr-x2"})
    assert open_source(str(weights))[0].loaded == weights
    assert open_network(weights).loaded == weights
    for call in (open_source, lambda name: open_network(name, names=["realesr-x2"])):
        with pytest.raises(UsageError, match=r"source: realesr-x3 is no run, file .*; did you mean 'realesr-x2'"):
            call("realesr-x3")
    with pytest.raises(UsageError, match="is a directory with neither in it"):
        open_network(tmp_path)
