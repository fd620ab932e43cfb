"""--config FILE: fields of the configuration out of a file, under the flags."""

import json

import pytest

from fastgan import Config
from fastgan.cli._file import flags_of
from fastgan.cli.train import _train_options
from fastgan.errors import UsageError
from fastgan.objectives import GAMES


def test_a_file_overrides_the_preset_and_flags_override_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('game = "wgan-gp"\nsteps = 7\nlr_g = 1e-3\nsync_statistics = true\naugment = "colour+cutout"\n')
    asked, out = _train_options(["mlp", "--config", str(path), "--steps", "9", "--out", "here"])
    config = asked.config
    assert (config.model, config.width) == ("mlp", 128)  # the preset's
    assert (config.game, config.lr_g, config.sync_statistics, config.augment) == (
        "wgan-gp",
        1e-3,
        True,
        "colour+cutout",
    )
    assert (config.steps, out.name) == (9, "here")
    assert config.lr_d is None  # the game's


def test_a_runs_own_configuration_says_all_again(tmp_path):
    config = Config(game="hinge", d_norm="spectral", instance_noise=0.1, compile="off").settled(GAMES["hinge"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": config.to_dict(), "world": 1}))
    assert _train_options([f"--config={path}"])[0].config == config


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.toml", "stepz = 3", "unknown option '--stepz'; did you mean '--steps'"),
        ("run.toml", 'steps = "many"', "Error parsing --steps"),
        ("run.toml", "steps = 0", "steps: expected a number >= 1, got 0"),
        ("run.toml", "steps = ", "config: .*run.toml is not readable"),
        ("run.json", "{", "config: .*run.json is not readable"),
        ("run.json", "[1]", "config: expected fields and their values in .*run.json, got list"),
        ("run.json", '{"steps": [1]}', "config: expected a number or a string for steps in .*, got list"),
        ("run.yaml", "steps: 3", "config: expected a .toml or .json file, got .*run.yaml"),
        (".", "", "config: .* cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, name, text, said):
    path = tmp_path / name
    if text:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        _train_options(["--config", str(path)])


def test_a_resumed_run_takes_no_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("steps = 3")
    assert flags_of(path) == ["--steps=3"]
    with pytest.raises(UsageError, match=r"resume: a resumed run has its own configuration; leave --config .* out"):
        _train_options(["--resume", "--config", str(path)])
