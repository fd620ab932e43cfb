"""fastgan.profile and the command."""

import json

import pytest
import torch
from torch import nn

import fastgan
from fastgan import cli
from fastgan.engine import Profile, ProfileRow, profile
from fastgan.errors import UsageError
from fastgan.ops._library import Op

SOURCE = """
import torch
from torch import nn
import fastgan

def make():
    layers = nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.2)
    network = fastgan.fuse(nn.Sequential(*layers))
    optimizer = torch.optim.Adam(network.parameters())

    def step(x):
        optimizer.zero_grad()
        network(x).mean().backward()
        optimizer.step()

    return step, (torch.ones(2, 3, 8, 8),)
"""


def test_operations_of_a_fused_step_are_named_and_the_state_is_as_before():
    network = fastgan.fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.2)))
    optimizer = torch.optim.Adam(network.parameters())
    before = [parameter.detach().clone() for parameter in network.parameters()]

    def step(x):
        optimizer.zero_grad()
        network(x).mean().backward()
        optimizer.step()

    call = Op.__call__
    found = profile(step, torch.ones(2, 3, 8, 8), steps=3)
    rows = {row.name: row for row in found.rows}
    assert rows["fastgan::conv_stack"].calls == 1
    assert rows["fastgan::conv_stack_backward"].calls == 1
    assert rows["Optimizer.step#Adam.step"].calls == 1
    assert all(row.device_ms is None and row.host_ms > 0 for row in found.rows)
    assert [row.host_ms for row in found.rows] == sorted((row.host_ms for row in found.rows), reverse=True)
    assert (found.step, found.device, found.steps, found.device_ms) == ("step", "CPU", 3, None)
    assert found.wall_ms > 0
    assert Op.__call__ is call
    assert not optimizer.state
    for old, new in zip(before, network.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None


def test_the_text_of_a_step_on_a_gpu():
    rows = tuple(ProfileRow(f"kernel{i}", 1, 0.1, 2.0 if i == 0 else 0.1) for i in range(22))
    text = str(Profile("step", "H200", 10.0, 4.1, 5, rows)).splitlines()
    assert text[0] == "step on H200: 10.00 ms a step, the GPU is busy 4.10 ms (41%)"
    assert "the GPU waits for the host" in text[1]
    assert text[3].split() == ["kernel0", "1", "0.100", "2.000", "49%"]
    assert text[-2] == "and 2 others, 0.200 ms"


def test_arguments(tmp_path):
    for arguments, words in (({"step": 3}, "step: expected a function"), ({"steps": 0}, "steps: expected a number")):
        with pytest.raises(UsageError, match=words):
            profile(**{"step": lambda: None, **arguments})
    (tmp_path / "t.json").write_text("mine")
    with pytest.raises(UsageError, match=r"trace: .* exists"):
        profile(lambda: None, trace=tmp_path / "t.json")
    assert (tmp_path / "t.json").read_text() == "mine"
    profile(lambda: torch.ones(1) + 1, trace=tmp_path / "t.json", overwrite=True)
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_the_command(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(SOURCE)
    assert cli.run(["profile", f"{tmp_path / 'mine.py'}:make", "--steps", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("step on CPU: ")
    assert "fastgan::conv" in out
    assert cli.run(["profile", f"{tmp_path / 'mine.py'}:make", "--steps", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    assert cli.run(["profile", f"{tmp_path / 'mine.py'}:none"]) == 2
    assert "has no 'none'" in capsys.readouterr().err
