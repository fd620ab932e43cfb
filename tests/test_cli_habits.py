from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from fastgan import cli
from fastgan.cli import _habits
from fastgan.cli._parse import parse
from fastgan.cli.eval import _Eval
from fastgan.cli.sample import _Sample
from fastgan.cli.train import TrainOptions
from fastgan.cli.upscale import _Upscale
from fastgan.errors import UsageError


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "--fp16"], "unknown option --fp16; write --precision"),
        (["train", "--amp"], "write --precision"),
        (["train", "--preset", "hinge"], "the preset comes first, without a dash: fastgan train PRESET"),
        (["train", "demo", "--batch_size", "8"], "unknown option --batch_size; write --batch N"),
        (["train", "--dry-run"], "there is no dry run"),
        (["train", "--epochs=3"], "unknown option --epochs; write --steps N"),
        (["upscale", "-i", "a.png"], "the files come first: fastgan upscale IN OUT"),
        (["export", "--half"], "write --precision fp16"),
        (["eval", "run", "--ref", "x"], "write --against DATA"),
    ],
)
def test_options_of_other_programs_get_a_hint(words, hint, capsys):
    assert cli.run(words) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "command"), [(TrainOptions, "train"), (_Sample, "sample"), (_Upscale, "upscale"), (_Eval, "eval")]
)
def test_every_hint_names_options_that_exist_and_is_for_one_that_does_not(kind, command):
    flags = _habits.flags_of(kind)
    for name, hint in _habits.HABITS[command].items():
        assert name not in flags
        first = hint.partition("--")
        if hint.startswith("write --"):
            assert first[2].split()[0].rstrip(";") in flags, hint


@dataclass
class _Options:
    """Of a test."""

    steps: int = 1
    rate: float = 1.0
    name: str = ""
    side: int | None = None
    pair: Annotated[tuple[int, ...], tyro.conf.Positional] = ()
    out: Path | None = None


def test_whole_numbers_in_exponent_form_are_integers():
    assert parse(_Options, ["--steps", "1e4", "--side=2.5e3"], "test") == _Options(steps=10_000, side=2500)
    assert parse(_Options, ["--rate", "1e-4", "--name", "1e4", "--out", "1e4"], "test") == _Options(
        rate=1e-4, name="1e4", out=Path("1e4")
    )
    for wrong in ("1e-4", "2.5", "many"):
        with pytest.raises(SystemExit):
            parse(_Options, ["--steps", wrong], "test")


def test_help_of_train_shows_the_preset(capsys):
    assert cli.run(["train", "--help"]) == 0
    assert "usage: fastgan train [PRESET]" in capsys.readouterr().out


def test_an_option_that_the_command_has_is_not_looked_up(monkeypatch):
    monkeypatch.setitem(_habits.HABITS, "test", {"steps": "never", "other": "write --steps N"})
    assert parse(_Options, ["--steps", "3"], "test").steps == 3
    with pytest.raises(UsageError, match="unknown option --other; write --steps N"):
        parse(_Options, ["--other", "3"], "test")
