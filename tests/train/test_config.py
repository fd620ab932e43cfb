import json

import pytest

from fastgan import Config
from fastgan.errors import UsageError
from fastgan.train.presets import PRESETS, preset


def test_json_round_trip():
    config = Config(steps=7, game="wgan-gp", resolution=32)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"steps": 0}, "steps: expected a number >= 1, got 0"),
        ({"lr_g": -1.0}, "lr_g"),
        ({"beta1": 1.0}, "beta1"),
        ({"channels": 2}, "channels: expected 1 or 3, got 2"),
        ({"d_norm": "layer"}, "d_norm: expected none, batch or spectral, got 'layer'"),
        ({"game": "wgan-gp", "d_norm": "batch"}, "batch norm ties the samples"),
        ({"r1_weight": 1.0, "d_norm": "batch"}, "batch norm ties the samples"),
        ({"game": "wgan"}, "did you mean 'wgan-gp'"),
        ({"model": "dcgn"}, "did you mean 'dcgan'"),
    ],
)
def test_bad_values_are_named(values, named):
    with pytest.raises(UsageError, match=named):
        Config(**values)


def test_unknown_fields_and_presets_suggest_the_nearest():
    with pytest.raises(UsageError, match="unknown field 'step'; did you mean 'steps'"):
        Config.from_dict({"step": 3})
    with pytest.raises(UsageError, match="unknown preset 'dem'; did you mean 'demo'"):
        preset("dem")


def test_every_preset_is_a_valid_configuration():
    for name in PRESETS:
        assert isinstance(preset(name), Config)
        assert PRESETS[name].about
