"""A run of a game of one's own says what was played, and what reads runs goes on reading it."""

import itertools
import json

import pytest
import torch

from fastgan import Config, Trainer
from fastgan.cli.train import _train_options
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss
from fastgan.report.compare import write_comparison
from fastgan.report.load import read_run
from fastgan.train.load import build_networks, load_generator

SHAPE = (1, 8, 8)


@pytest.fixture
def run(tmp_path):
    least_distance = AdversarialLoss(
        "least-distance", lambda real, fake: (fake - real).mean(), lambda fake: -fake.mean()
    )
    config = Config(
        model="mlp", width=4, latent=4, batch=4, steps=1, log_every=1, sample_every=1, checkpoint_every=1, compile="off"
    )
    about = {"image_shape": list(SHAPE), "dataset": {"name": "noise", "count": 4}}
    trainer = Trainer(*build_networks(config, SHAPE), least_distance, config, out=tmp_path / "run", about=about)
    trainer.fit(itertools.repeat(torch.rand(4, *SHAPE)))
    return tmp_path / "run"


def test_the_run_says_what_was_played(run, tmp_path):
    facts = json.loads((run / "config.json").read_text())
    assert facts["game"] == "least-distance"
    assert read_run(run).config["loss"] == "least-distance"
    assert "least-distance" in (run / "report.html").read_text()
    hinge = {"name": "hinge", "unbounded": False}
    text = json.dumps(facts | {"loss": hinge, "config": facts["config"] | {"game": "hinge"}})
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(text)
    write_comparison([run, other], tmp_path / "compare.html")
    assert "least-distance" in (tmp_path / "compare.html").read_text()
    del facts["game"], facts["loss"]  # of an older version
    (other / "config.json").write_text(json.dumps(facts))
    assert read_run(other).config["loss"] == "non-saturating"


def test_its_generator_is_loaded_and_the_command_line_does_not_play_on_with_another_game(run):
    assert load_generator(run).step == 1
    with pytest.raises(UsageError, match="resume: the run plays a game of your own, 'least-distance'; resume it with"):
        _train_options(["--resume", "--out", str(run), "--steps", "2"])
