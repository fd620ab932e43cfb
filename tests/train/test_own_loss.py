"""A run with an adversarial loss of the user's own records its name, and can be read, compared and loaded."""

import itertools
import json

import pytest
import torch

from fastgan import Config, Trainer
from fastgan.cli.train import _options
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss
from fastgan.report.compare import write_comparison
from fastgan.report.load import read_run
from fastgan.train.networks import build_networks, load_generator

SHAPE = (1, 8, 8)


@pytest.fixture
def run(tmp_path):
    least_distance = AdversarialLoss(
        "least-distance", lambda real, fake: (fake - real).mean(), lambda fake: -fake.mean()
    )
    config = Config.from_flags(
        model="mlp", width=4, latent=4, batch=4, steps=1, log_every=1, sample_every=1, checkpoint_every=1, compile="off"
    )
    about = {"image_shape": list(SHAPE), "dataset": {"name": "noise", "count": 4}}
    trainer = Trainer(*build_networks(config, SHAPE), least_distance, config, out=tmp_path / "run", about=about)
    trainer.fit(itertools.repeat(torch.rand(4, *SHAPE) * 2 - 1))
    return tmp_path / "run"


def test_the_run_records_the_name_of_the_loss(run, tmp_path):
    facts = json.loads((run / "config.json").read_text())
    assert facts["loss"] == {"name": "least-distance", "unbounded": False}
    assert read_run(run).config["loss"] == "least-distance"
    assert "least-distance" in (run / "report.html").read_text()
    hinge = {"name": "hinge", "unbounded": False}
    text = json.dumps(facts | {"loss": hinge, "config": facts["config"] | {"game": "hinge"}})
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(text)
    write_comparison([run, other], tmp_path / "compare.html")
    assert "least-distance" in (tmp_path / "compare.html").read_text()
    # Older versions wrote the name as "game", the first ones in the configuration alone.
    old = {name: value for name, value in facts.items() if name != "loss"}
    old["config"] = {"game": "non-saturating", "steps": 1}
    (other / "config.json").write_text(json.dumps(old | {"game": "least-distance"}))
    assert read_run(other).config["loss"] == "least-distance"
    (other / "config.json").write_text(json.dumps(old))
    assert read_run(other).config["loss"] == "non-saturating"


def test_its_generator_is_loaded_and_the_command_line_does_not_resume_it_with_another_loss(run):
    assert load_generator(run).step == 1
    with pytest.raises(
        UsageError, match="resume: the run has an adversarial loss of your own, 'least-distance'; resume"
    ):
        _options(["--resume", str(run), "--steps", "2"])
