import pytest

from fastgan.train import pace
from fastgan.train.pace import Pace


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    return tmp_path / "compile.json"


def test_what_is_remembered_is_recalled(file):
    assert pace.recall("a") is None
    pace.remember("a", Pace(0.25, 31.5))
    pace.remember("b", Pace(0.5, 12.0))
    assert (pace.recall("a"), pace.recall("b")) == (Pace(0.25, 31.5), Pace(0.5, 12.0))


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", '{"a": 3}', '{"a": {"saving": 1}}', "null"])
def test_a_damaged_file_costs_what_it_held(file, content):
    file.write_text(content)
    assert pace.recall("a") is None
    pace.remember("a", Pace(0.25, 31.5))
    assert pace.recall("a") == Pace(0.25, 31.5)
