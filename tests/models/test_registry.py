"""The table of families: a new family is one file and one line, its options are those of its signature."""

import subprocess
import sys
import textwrap

import pytest
import torch

from fastgan import models
from fastgan.errors import UsageError
from fastgan.models import FAMILIES, option_types, parse_option
from fastgan.models.registry import OF_IMAGES

SIZES = {"resolution": 8, "channels": 1, "latent": 4, "width": 6}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A family of its own: one file, and one line in the table."""
    (tmp_path / "tiny_family.py").write_text(
        textwrap.dedent(
            """
            from __future__ import annotations

            from torch import nn

            def build(resolution, channels, latent, width, classes, d_norm,
                      *, depth: int = 1, slope: float = 0.2, act: str = "relu", bias: bool = True,
                      dropout: float | None = None):
                pixels = channels * resolution**2
                layers = [nn.Linear(latent, width, bias)] + [nn.Linear(width, width, bias) for _ in range(depth - 1)]
                to_image = nn.Unflatten(1, (channels, resolution, -1))
                generator = nn.Sequential(*layers, nn.Linear(width, pixels), to_image)
                discriminator = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.LeakyReLU(slope),
                                              nn.Linear(width, 1), nn.Flatten(0))
                return generator, discriminator
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(FAMILIES, "tiny", "tiny_family")
    return "tiny"


def test_a_new_family_is_one_file_and_one_line(tiny):
    generator, discriminator = models.build(tiny, **SIZES, depth=3, slope=0.1)
    images = generator(torch.randn(5, 4))
    assert images.shape == (5, 1, 8, 8)
    assert discriminator(images).shape == (5,)
    assert len(generator) == 5
    assert discriminator[2].negative_slope == 0.1


def test_options_and_their_types_come_from_the_signature(tiny):
    assert option_types(tiny) == {"depth": int, "slope": float, "act": str, "bias": bool, "dropout": float | None}
    assert option_types("biggan") == {"embedding": int, "attention": int | None, "condition": str | None}


def test_values_are_parsed_from_texts(tiny):
    texts = {"depth": "3", "slope": "1e-1", "act": "none", "bias": "False", "dropout": "None"}
    values = {option: parse_option(tiny, option, text) for option, text in texts.items()}
    assert values == {"depth": 3, "slope": 0.1, "act": "none", "bias": False, "dropout": None}
    assert parse_option(tiny, "dropout", "0.5") == 0.5
    assert parse_option("biggan", "attention", "none") is None
    assert parse_option("biggan", "attention", "32") == 32
    assert parse_option("mlp", "variant", "original") == "original"
    models.build(tiny, **SIZES, **values)


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("depth", "2.5", "depth: tiny expects int, got '2.5'"),
        ("bias", "1", "bias: tiny expects bool, got '1'"),
        ("dropout", "half", "dropout: tiny expects float or None, got 'half'"),
        ("dept", "3", "dept: tiny has the options .*; did you mean 'depth'?"),
    ],
)
def test_texts_of_another_type_or_option(tiny, option, text, message):
    with pytest.raises(UsageError, match=message):
        parse_option(tiny, option, text)


def test_errors_name_the_option_and_the_nearest_one(tiny):
    with pytest.raises(UsageError, match=r"dpth: tiny has the options depth, .*, got dpth=2; did you mean 'depth'\?"):
        models.build(tiny, **SIZES, dpth=2)
    with pytest.raises(UsageError, match="depth: tiny expects int, got '2'"):
        models.build(tiny, **SIZES, depth="2")
    with pytest.raises(UsageError, match="depth: tiny expects int, got True"):
        models.build(tiny, **SIZES, depth=True)
    models.build(tiny, **SIZES, slope=1)  # an int is accepted where a float is expected
    with pytest.raises(UsageError, match=r"model: expected one of biggan, .*, got 'bigan'; did you mean 'biggan'\?"):
        option_types("bigan")


def test_names_are_listed_without_importing_torch():
    code = "import sys; from fastgan.models import FAMILIES; print(sorted(FAMILIES), 'torch' in sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert listed.strip() == f"{sorted(FAMILIES)} False"


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - OF_IMAGES))
def test_every_family_takes_the_condition_that_a_configuration_states(name):
    assert option_types(name)["condition"] == str | None
