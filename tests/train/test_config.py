import csv
import json
from pathlib import Path

import pytest

from fastgan import Config
from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL
from fastgan.train.presets import COSTS, FOR_GPUS, PRESETS, about, preset


def test_json_round_trip():
    config = Config.from_flags(steps=7, loss="wgan-gp", resolution=32)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"steps": 0}, "steps: expected a number >= 1, got 0"),
        ({"lr_g": -1.0}, "lr_g"),
        ({"beta1": 1.0}, "beta1"),
        ({"channels": 2}, "channels: expected 1 or 3, got 2"),
        ({"d_norm": "layer"}, "d_norm: expected none, batch or spectral, got 'layer'"),
        ({"loss": "wgan-gp", "d_norm": "batch"}, "batch norm couples the samples"),
        ({"r1_weight": 1.0, "d_norm": "batch"}, "batch norm couples the samples"),
        (
            {"model": "progan", "loss": "wgan"},
            "weight_clip: progan draws its weights from .*; use another loss than wgan",
        ),
        ({"loss": "wgangp"}, "did you mean 'wgan-gp'"),
        ({"model": "dcgn"}, "did you mean 'dcgan'"),
    ],
)
def test_invalid_values_are_named(values, named):
    with pytest.raises(UsageError, match=named):
        Config.from_flags(**values)


OLD = {"game": "hinge", "gp_weight": 10.0, "r1_weight": 1.0, "r1_interval": 4, "lr_g": 1e-3, "lr_d": 1e-3, "beta1": 0.5,
       "beta2": 0.999, "d_steps": 1}  # fmt: skip


def test_a_config_of_an_older_version_keeps_its_meaning():
    config = Config.from_dict(OLD)
    assert config.loss.all_penalties(ADVERSARIAL["hinge"]) == {"r1": 1.0}  # its gp_weight was for wgan-gp alone
    assert config.loss.penalty_interval == 4
    # A table of a few fields, written by a user, is not of a first version.
    assert Config.from_dict({"gp_weight": 10.0}).loss.all_penalties(ADVERSARIAL["hinge"]) == {"gradient_penalty": 10.0}
    config = Config.from_dict({**OLD, "game": "wgan-gp", "gp_weight": 3.0})
    assert config.loss.all_penalties(ADVERSARIAL["wgan-gp"]) == {"gradient_penalty": 3.0, "r1": 1.0}
    assert config.settled(ADVERSARIAL["wgan-gp"]).optim.lr_g == 1e-3


def test_penalties_are_added_to_those_of_the_loss():
    assert Config.from_flags(loss="wgan-gp").loss.all_penalties(ADVERSARIAL["wgan-gp"]) == {"gradient_penalty": 10.0}
    assert Config.from_flags(loss="wgan-gp", gp_weight=0.0).loss.all_penalties(ADVERSARIAL["wgan-gp"]) == {}
    asked = Config.from_flags(
        gp_weight=2.0, zero_centered_gp_weight=3.0, dragan_weight=4.0, r1_weight=5.0, r2_weight=6.0
    )
    assert asked.loss.all_penalties(ADVERSARIAL["non-saturating"]) == {
        "gradient_penalty": 2.0, "zero_centered_gp": 3.0, "dragan": 4.0, "r1": 5.0, "r2": 6.0
    }  # fmt: skip
    assert Config().loss.all_penalties(ADVERSARIAL["non-saturating"]) == {}


def test_unknown_fields_and_presets_suggest_the_nearest():
    with pytest.raises(UsageError, match="unknown field 'step'; did you mean 'steps'"):
        Config.from_dict({"step": 3})
    with pytest.raises(UsageError, match="unknown preset 'dem'; did you mean 'demo'"):
        preset("dem")


def test_every_preset_is_a_valid_configuration():
    for name in PRESETS:
        assert isinstance(preset(name), Config)
        assert 30 < len(about(name)) <= 110
    # A number that a preset leaves to its loss.
    assert preset("wgan-gp-64").settled(ADVERSARIAL["wgan-gp"]).optim.d_steps == 5


def test_costs_of_presets_are_the_measured_ones():
    table = Path(__file__).parents[2] / "benchmarks" / "results" / "presets.csv"
    with table.open(newline="") as file:
        measured = {row["preset"]: row for row in csv.DictReader(file)}
    assert measured.keys() == COSTS.keys() == PRESETS.keys() - set(FOR_GPUS)
    for name, (hours, megabytes) in COSTS.items():
        assert hours == float(measured[name]["hours"])
        assert megabytes == int(measured[name]["peak_MB"])
        # With as many steps as the preset has now.
        assert preset(name).steps == int(measured[name]["steps"])
