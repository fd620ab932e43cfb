"""--config FILE: fields of the configuration from a file, which flags override."""

import json

import pytest
from ruamel.yaml import YAML

from fastgan import Config
from fastgan.cli._file import flags_of
from fastgan.cli.train import _options
from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL


def test_a_file_overrides_the_preset_and_flags_override_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('loss = "wgan-gp"\nsteps = 7\nlr_g = 1e-3\nsync_statistics = true\naugment = "color+cutout"\n')
    asked, out = _options(["mlp", "--config", str(path), "--steps", "9", "--out", "here"])
    config = asked.config
    flags = config.flags()
    assert (flags["model"], flags["width"]) == ("mlp", 128)  # the preset's
    assert [flags[name] for name in ("loss", "lr_g", "sync_statistics", "augment")] == [
        "wgan-gp", 1e-3, True, "color+cutout",
    ]  # fmt: skip
    assert (config.steps, out.name) == (9, "here")
    assert config.optim.lr_d is None  # the loss's default


@pytest.mark.parametrize("name", ["run.yaml", "run.yml"])
def test_yaml_is_version_1_2(tmp_path, name):
    """To YAML 1.1 `1e-4` is a string, `off` a boolean, `010` an octal number and `1:30` a number in base 60."""
    path = tmp_path / name
    path.write_text(
        "# of a run\nloss: hinge\nlr_g: 1e-4\ncompile: off\nseed: 010\nwandb: 1:30\nsync_statistics: true\n"
        "lr_d: 0.002\nsteps: 7\nchannels: null\nclip: ~\naugment: 'color+cutout'\n"
    )
    config = _options(["--config", str(path)])[0].config
    assert (config.loss.adversarial, config.optim.lr_g, config.compile, config.seed) == ("hinge", 1e-4, "off", 10)
    assert (config.logging.wandb, config.sync_statistics, config.optim.lr_d, config.steps) == ("1:30", True, 2e-3, 7)
    assert (config.data.channels, config.optim.clip, config.regularization.augment) == (None, 0.0, "color+cutout")
    path.write_text("config:\n  compile: on\n  sync-statistics: false\nworld: 1\n")
    assert flags_of(path) == ["--compile=on", "--no-sync-statistics"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "steps: 7\noptim:\n  lr_g: 1e-4\n  adam: {beta1: 0.0}\n"),
        ("run.toml", "steps = 7\n[optim]\nlr_g = 1e-4\n[optim.adam]\nbeta1 = 0.0\n"),
        ("run.json", '{"steps": 7, "optim": {"lr_g": 1e-4, "adam": {"beta1": 0.0}}}'),
    ],
)
def test_fields_may_be_in_tables(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert flags_of(path) == ["--steps=7", "--lr-g=0.0001", "--beta1=0.0"]


def test_the_config_of_a_run_gives_the_same_configuration(tmp_path):
    flags = {"loss": "hinge", "d_norm": "spectral", "instance_noise": 0.1, "compile": "off", "data": "pictures"}
    flags |= {"model": "biggan", "attention": 16}
    config = Config.from_flags(**flags).settled(ADVERSARIAL["hinge"])
    content = {"config": config.to_dict(), "world": 1}
    (tmp_path / "config.json").write_text(json.dumps(content))
    YAML(typ="safe", pure=True).dump(content, tmp_path / "config.yaml")
    for path in tmp_path.iterdir():
        assert _options([f"--config={path}"])[0].config == config


def test_the_config_of_an_old_run(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {"augment": "colour+cutout", "r1_interval": 4}, "game": "hinge"}))
    assert sorted(flags_of(path)) == ["--augment=color+cutout", "--penalty-interval=4"]
    path.write_text(json.dumps({"config": {"model": "biggan", "game": "hinge", "attention": 16, "variant": None}}))
    assert sorted(flags_of(path)) == ["--loss=hinge", "--model.attention=16", "--model=biggan"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", "stepz = 3", "config: unknown field 'stepz'; did you mean 'steps'"),
        ("run.toml", "steps = 0", "steps: expected a number >= 1, got 0"),
        ("run.toml", "steps = ", "config: .*run.toml cannot be parsed"),
        ("run.toml", "steps = 1\nsteps = 2", "config: .*run.toml cannot be parsed: Cannot overwrite a value"),
        ("run.toml", "steps = 1\n[a]\nsteps = 2", "config: steps is given twice in .*run.toml"),
        ("run.toml", "steps = 2026-01-01", "config: expected a number, .* for steps in .*, got date"),
        ("run.json", "{", "config: .*run.json cannot be parsed"),
        ("run.json", "[1]", "config: expected a table of fields in .*run.json, got list"),
        ("run.json", '{"steps": [1]}', "config: expected a number, a string, true or false for steps in .*, got list"),
        ("run.json", '{"steps": 1, "steps": 2}', 'config: .*run.json cannot be parsed: found duplicate key "steps"'),
        ("run.json", '{"lr_g": 1, "lr-g": 2}', "config: lr_g is given twice in .*run.json"),
        ("run.json", '{"overwrite": true}', "config: unknown field .overwrite."),
        (
            "run.yaml",
            "steps: 3\n  seed: 1",
            "config: .*run.yaml cannot be parsed: mapping values are not allowed .* line 2",
        ),
        ("run.yaml", "steps: '\x01'", "config: .*run.yaml cannot be parsed: unacceptable character"),
        ("run.yaml", "steps: 1\nsteps: 2", 'config: .*run.yaml cannot be parsed: found duplicate key "steps"'),
        (
            "run.yaml",
            "steps: 1\n---\nsteps: 2",
            "config: .*run.yaml cannot be parsed: but found another document at line",
        ),
        ("run.yaml", "- steps", "config: expected a table of fields in .*run.yaml, got list"),
        ("run.yaml", "steps", "config: expected a table of fields in .*run.yaml, got str"),
        ("run.yaml", "", "config: expected a table of fields in .*run.yaml, got NoneType"),
        ("run.yaml", "steps: [1]", "config: expected a number, a string, true or false for steps in .*, got list"),
        ("run.yaml", "steps: {at: 1}", "config: unknown field 'at'"),
        (
            "run.yaml",
            "steps: &a [*a, *a]",
            r"config: .* cannot be parsed: the alias \*a at line 1: write the values out",
        ),
        ("run.yaml", "config: &a {config: *a}", r"config: .* cannot be parsed: the alias \*a"),
        ("run.yaml", "a: {b: {c: {d: {e: 1}}}}", "config: expected tables nested at most 4 deep in .*run.yaml"),
        ("run.yaml", "[" * 5000 + "]" * 5000, "config: .* cannot be parsed: it is nested too deeply"),
        ("run.json", "[" * 100_000, "config: .* cannot be parsed: it is nested too deeply"),
        ("run.toml", "a = " + "[" * 5000, "config: .* cannot be parsed: it is nested too deeply"),
        ("run.json", " " * (1 << 20) + "{}", "config: .* is larger than 1.0 MB"),
        ("run.yaml", "compile: no", "compile: expected auto, on, graph or off, got 'no'"),
        ("run.yaml", "steps: !!python/object/apply:os.system [exit]", "could not determine a constructor for the tag"),
        ("run.yaml", "1: 2", "config: unknown field '1'"),
        ("run.yaml", "sync_statistics: yes", "config: expected true or false for sync_statistics in .*, got 'yes'"),
        ("run.toml", "sync_statistics = 1", "config: expected true or false for sync_statistics in .*, got 1"),
        ("run.ini", "steps: 3", "config: expected a .yaml, .toml or .json file, got .*run.ini"),
        (".", "", "config: .* cannot be read"),
    ],
)
def test_errors_of_a_file(tmp_path, name, text, message):
    path = tmp_path / name
    if name != ".":
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        _options(["--config", str(path)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: many", "Error parsing --steps"),
        ("steps: true", "--steps"),
    ],
)
def test_the_parser_checks_the_type_of_a_value(tmp_path, capsys, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit) as end:
        _options(["--config", str(path)])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_resumed_run_takes_no_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("steps = 3")
    assert flags_of(path) == ["--steps=3"]
    with pytest.raises(UsageError, match=r"resume: a resumed run has its own configuration; leave --config .* out"):
        _options(["--resume", str(tmp_path), "--config", str(path)])
