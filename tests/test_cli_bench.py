"""`fastgan bench step`."""

import json
import re
import sys

import pytest

import fastgan.engine  # noqa: F401

#: The package has a function of the same name.
MODULE = sys.modules["fastgan.engine.benchmark"]

FILE = """
import torch

weight = torch.nn.Parameter(torch.ones(4))
number = 3

def step(x):
    weight.grad = None
    loss = (weight * x).square().sum()
    loss.backward()
    return loss.detach()

def with_arguments():
    return step, (torch.arange(4.0),)

def without():
    return lambda: step(torch.ones(4))

def returns_number():
    return 3

def fails():
    raise KeyError("x")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    # What compilers do is tested in tests/engine/test_benchmark.py.
    for name in ("_fastgan_compile", "_torch_compile"):
        monkeypatch.setattr(MODULE, name, lambda step, args: MODULE._Ready(lambda: step(*args)))
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_the_command_prints_a_table_or_json(cli, mine):
    done = cli("bench", "step", f"{mine}:with_arguments", "--seconds", "0.01")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^step on CPU$", done.stdout, flags=re.M)
    assert re.search(r"^eager +\d", done.stdout, flags=re.M)
    done = cli("bench", "step", "mine.py:without", "--seconds", "0.01", "--json")
    found = json.loads(done.stdout)
    assert [one["name"] for one in found["contestants"]] == ["eager", "torch.compile", "fastgan.compile"]
    assert found["contestants"][0]["wall"]["median"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine.py"], "function: expected FILE:FUNCTION, such as mine.py:critic_step, got 'mine.py'"),
        (["other.py:f"], "function: other.py is not a file"),
        (["mine.py:absent"], "function: mine.py has no 'absent'"),
        (["mine.py:number"], "function: number of mine.py must be a function, got int"),
        (["mine.py:returns_number"], "must return a step or (step, arguments), got int"),
        (["mine.py:fails"], "function: fails() of mine.py fails: KeyError: 'x'"),
        (["mine.py:without", "--seconds", "0"], "seconds: expected a number > 0, got 0"),
    ],
)
def test_errors_of_the_command(cli, mine, words, message):
    done = cli("bench", "step", *words)
    assert done.returncode == 2
    assert message in done.stderr
