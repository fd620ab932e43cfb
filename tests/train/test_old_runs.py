"""Run directories that an earlier version wrote are still read: resumed, sampled from and reported on.

tests/data_old/run_directory was written before the configuration was nested and before the words changed (game, critic,
colour, on_collapse "restore"); generator_at_step_30.safetensors is what that version made of it by ten more steps.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastgan import cli
from fastgan.report.load import read_run
from fastgan.train import Config
from fastgan.train.networks import load_generator

OLD = Path(__file__).parents[1] / "data_old"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD / "run_directory", tmp_path / "run")


def test_the_configuration_is_read_with_todays_names(run):
    config = Config.from_dict(json.loads((run / "config.json").read_text())["config"])
    assert config.loss.adversarial == "hinge"
    assert config.regularization.augment == "color+translation"
    assert config.logging.on_collapse == "rollback"
    assert config.model.options == {"variant": "deep"}
    assert (config.data.batch, config.data.held_out, config.model.width, config.optim.accumulate) == (8, 50, 4, 1)
    assert Config.from_dict(config.to_dict()) == config


def test_it_goes_on_as_the_earlier_version_would_have(run):
    assert cli.run(["train", "--resume", str(run), "--steps", "30"]) == 0
    own, theirs = (
        load_file(path / "generator.safetensors") if path.is_dir() else load_file(path)
        for path in (run / "checkpoints" / "00000030", OLD / "generator_at_step_30.safetensors")
    )
    assert own.keys() == theirs.keys()
    for name, value in own.items():
        # Other processors round otherwise; the same one makes the same bits.
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5)


def test_the_lines_of_metrics_and_the_report_have_todays_keys(run):
    found = read_run(run)
    assert "auroc/real_fake" in found.metrics[-1]
    assert "auroc/train_held_out" in found.metrics[-1]
    assert not any(name.startswith("critic/") for name in found.metrics[-1])
    assert cli.run(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "hinge" in page
    assert "critic/" not in page


def test_samples_are_made_of_it(run, tmp_path):
    generator = load_generator(run)
    assert (generator.step, generator.latent_shape) == (20, (2,))
    assert cli.run(["sample", str(run), "--n", "4", "--out", str(tmp_path / "grid.png")]) == 0
    assert (tmp_path / "grid.png").exists()
