"""Weights & Biases, by a stand-in: the lines that TensorBoard gets, under one id for the whole run."""

import itertools
import json
import sys
import types

import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.train import loggers


class Project:
    """Stands in for the package: keeps what init and the runs are told."""

    def __init__(self):
        self.begun, self.lines, self.ended = [], [], 0

    def module(self):
        module = types.ModuleType("wandb")
        module.__spec__ = types.SimpleNamespace()
        module.init = lambda **options: (self.begun.append(options), self)[1]
        return module

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.ended += 1


@pytest.fixture
def project(monkeypatch):
    project = Project()
    monkeypatch.setitem(sys.modules, "wandb", project.module())
    return project


def train(out, steps, resume=False, **options):
    config = Config.from_flags(latent=8, width=4, batch=8, steps=steps, log_every=2, checkpoint_every=2, sample_every=100,
                    compile="off", **options)  # fmt: skip
    torch.manual_seed(0)
    trainer = Trainer(*models.build("mlp", resolution=28, channels=1, latent=8, width=4), config=config, out=out)
    trainer.fit(itertools.repeat(torch.zeros(8, 1, 28, 28)), resume=resume)


def test_the_same_lines_under_one_id(project, tmp_path):
    train(tmp_path / "run", 4, wandb="shirts")
    train(tmp_path / "run", 6, resume=True, wandb="shirts")
    assert [step for step, _ in project.lines] == [2, 4, 6]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for (_, values), line in zip(project.lines, lines, strict=True):
        assert values == {name: value for name, value in line.items() if "/" in name}
    first, second = project.begun
    assert first["project"] == "shirts"
    assert first["name"] == "run"
    assert first["dir"] == tmp_path / "run"
    assert first["config"]["steps"] == 4
    assert first["resume"] == "allow"
    assert first["id"] == second["id"]
    assert project.ended == 2


def test_nothing_unless_asked(project, tmp_path):
    train(tmp_path / "run", 2)
    assert project.begun == []
    assert not (tmp_path / "run" / "wandb").exists()


def test_a_run_that_failed_is_closed_too(project, tmp_path):
    config = Config.from_flags(steps=4, log_every=2, wandb="shirts", compile="off")
    networks = models.build("mlp", resolution=28, channels=1, latent=64, width=4)
    trainer = Trainer(*networks, config=config, out=tmp_path / "run")
    with pytest.raises(UsageError, match="ended after 1"):
        trainer.fit(iter([torch.zeros(8, 1, 28, 28)]))
    assert project.ended == 1


def test_a_missing_package_is_told_before_anything_is_done(monkeypatch, tmp_path):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^wandb: the package that logs to 'shirts' is not installed; pip install"):
        train(tmp_path / "run", 2, wandb="shirts")
    assert not (tmp_path / "run").exists()


def test_a_run_that_writes_nothing_has_no_project(project):
    with pytest.raises(UsageError, match="wandb: expected a run directory too"):
        train(None, 2, wandb="shirts")
