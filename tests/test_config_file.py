"""--config FILE: fields of the configuration out of a file, under the flags."""

import json

import pytest
import yaml

from fastgan import Config
from fastgan.cli._file import flags_of
from fastgan.cli.train import _train_options
from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL


def test_a_file_overrides_the_preset_and_flags_override_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('game = "wgan-gp"\nsteps = 7\nlr_g = 1e-3\nsync_statistics = true\naugment = "color+cutout"\n')
    asked, out = _train_options(["mlp", "--config", str(path), "--steps", "9", "--out", "here"])
    config = asked.config
    assert (config.model, config.width) == ("mlp", 128)  # the preset's
    assert (config.game, config.lr_g, config.sync_statistics, config.augment) == (
        "wgan-gp",
        1e-3,
        True,
        "color+cutout",
    )
    assert (config.steps, out.name) == (9, "here")
    assert config.lr_d is None  # the game's


@pytest.mark.parametrize("name", ["run.yaml", "run.yml"])
def test_yaml_says_what_a_person_means(tmp_path, name):
    """To YAML 1.1 these are a string, a boolean, an octal number and a number in base 60."""
    path = tmp_path / name
    path.write_text(
        "# of a run\ngame: hinge\nlr_g: 1e-4\ncompile: off\nseed: 010\nwandb: 1:30\nsync_statistics: yes\n"
        "lr_d: 0.002\nsteps: 7\nchannels: null\nclip: ~\naugment: 'color+cutout'\n"
    )
    config = _train_options(["--config", str(path)])[0].config
    assert (config.game, config.lr_g, config.compile, config.seed) == ("hinge", 1e-4, "off", 10)
    assert (config.wandb, config.sync_statistics, config.lr_d, config.steps) == ("1:30", True, 2e-3, 7)
    assert (config.channels, config.clip, config.augment) == (None, 0.0, "color+cutout")
    path.write_text("config:\n  compile: on\n  sync-statistics: off\nworld: 1\n")
    assert flags_of(path) == ["--compile=on", "--no-sync-statistics"]


def test_a_runs_own_configuration_says_all_again(tmp_path):
    config = Config.from_flags(loss="hinge", d_norm="spectral", instance_noise=0.1, compile="off").settled(ADVERSARIAL["hinge"])
    for suffix, write in ((".json", json.dumps), (".yaml", yaml.safe_dump)):
        path = tmp_path / f"config{suffix}"
        path.write_text(write({"config": config.to_dict(), "world": 1}))
        assert _train_options([f"--config={path}"])[0].config == config


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.toml", "stepz = 3", "config: unknown field 'stepz'; did you mean 'steps'"),
        ("run.toml", 'steps = "many"', "Error parsing --steps"),
        ("run.toml", "steps = 0", "steps: expected a number >= 1, got 0"),
        ("run.toml", "steps = ", "config: .*run.toml is not readable"),
        ("run.json", "{", "config: .*run.json is not readable"),
        ("run.json", "[1]", "config: expected fields and their values in .*run.json, got list"),
        ("run.json", '{"steps": [1]}', "config: expected a number or a string for steps in .*, got list"),
        ("run.json", '{"steps": 1, "steps": 2}', "config: steps stands twice in .*run.json"),
        ("run.yaml", "steps: many", "Error parsing --steps"),
        ("run.json", '{"overwrite": true}', "config: unknown field .overwrite."),
        (
            "run.yaml",
            "steps: 3\n  seed: 1",
            "config: .*run.yaml is not readable: mapping values are not allowed .* line 2",
        ),
        ("run.yaml", "steps: '\x01'", "config: .*run.yaml is not readable: unacceptable character"),
        ("run.yaml", "steps: 1\nsteps: 2", "config: steps stands twice in .*run.yaml"),
        (
            "run.yaml",
            "steps: 1\n---\nsteps: 2",
            "config: .*run.yaml is not readable: but found another document at line",
        ),
        ("run.yaml", "- steps", "config: expected fields and their values in .*run.yaml, got list"),
        ("run.yaml", "steps", "config: expected fields and their values in .*run.yaml, got str"),
        ("run.yaml", "", "config: expected fields and their values in .*run.yaml, got NoneType"),
        ("run.yaml", "steps: [1]", "config: expected a number or a string for steps in .*, got list"),
        ("run.yaml", "steps: {at: 1}", "config: expected a number or a string for steps in .*, got dict"),
        ("run.yaml", "steps: &a [*a, *a]", "config: expected a number or a string for steps in .*, got list"),
        ("run.yaml", "config: &a {config: *a}", "config: unknown field .config."),
        ("run.yaml", "compile: no", "compile: expected auto, on, graph or off, got 'no'"),
        ("run.yaml", "sync_statistics: perhaps", "sync_statistics: expected true or false, got 'perhaps'"),
        ("run.yaml", "steps: !!python/object/apply:os.system [exit]", "expected a number or a string for steps"),
        ("run.ini", "steps: 3", "config: expected a .yaml, .toml or .json file, got .*run.ini"),
        (".", "", "config: .* cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, name, text, said):
    path = tmp_path / name
    if name != ".":
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        _train_options(["--config", str(path)])


def test_a_resumed_run_takes_no_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("steps = 3")
    assert flags_of(path) == ["--steps=3"]
    with pytest.raises(UsageError, match=r"resume: a resumed run has its own configuration; leave --config .* out"):
        _train_options(["--resume", "--config", str(path)])
