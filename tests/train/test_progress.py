"""How a run shows its progress: a line with each interval, or one bar in a terminal."""

import io
import itertools
import logging
import re

import torch

from fastgan import Config, Trainer, models
from fastgan._util.progress import Progress
from fastgan.report.diagnostics import Diagnosis


class Terminal(io.StringIO):
    def isatty(self):
        return True


def trained(steps, out=None, resume=False, diagnoses=()):
    """Train; after each line the monitor finds these diagnoses."""
    torch.manual_seed(0)
    networks = models.build("mlp", resolution=28, channels=1, latent=8, width=4)
    flags = {
        "steps": steps,
        "batch": 8,
        "log_every": 50,
        "checkpoint_every": 100,
        "sample_every": 100,
        "compile": "off",
    }
    trainer = Trainer(*networks, config=Config.from_flags(**flags), out=out)

    def diagnose(row):
        trainer.monitor.diagnoses = list(diagnoses)

    trainer.monitor.diagnose = diagnose
    trainer.fit(itertools.repeat(torch.zeros(8, 1, 28, 28)), resume=resume)


def lines(caplog):
    return [message for message in caplog.messages if message.startswith("training:")]


def test_each_interval_is_a_line_with_speed_and_losses(caplog):
    caplog.set_level(logging.INFO)
    trained(100)
    first, last = lines(caplog)
    number = r"[+-]\d+\.\d{3}"
    assert re.fullmatch(
        r"training: 50 of 100 steps, [\d,.]+ per second, \d+:\d\d left  \d+ images/s  [\d.e+-]+ sec/kimg"
        r"  \d+\.\d GB  healthy"
        rf"  D {number}  G {number}",
        first,
    )
    assert last.startswith("training: 100 of 100 steps, ")


def test_diagnoses_replace_healthy(caplog):
    caplog.set_level(logging.INFO)
    found = [Diagnosis(name, 1, 1, "", ()) for name in ("mode collapse", "vanishing generator gradient")]
    trained(50, diagnoses=found)
    assert "  mode collapse, vanishing generator gradient  D " in lines(caplog)[0]


def test_a_resumed_run_counts_from_where_it_was(caplog, tmp_path):
    trained(100, tmp_path / "run")
    caplog.set_level(logging.INFO)
    caplog.clear()
    trained(150, tmp_path / "run", resume=True)
    (line,) = lines(caplog)
    assert line.startswith("training: 150 of 150 steps, ")


def test_a_terminal_shows_one_bar_and_no_lines(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    trained(100)
    monkeypatch.undo()
    assert "100/100" in stream.getvalue()
    assert " GB  healthy  D" in stream.getvalue()
    assert lines(caplog) == []


def test_going_back_does_not_make_the_rate_negative(caplog):
    caplog.set_level(logging.INFO)
    shown = Progress("training", 100, io.StringIO(), unit="steps", each_note=True)
    shown.add(24)
    shown.move_to(4)
    shown.add(1, note="healthy")
    shown.close()
    (line,) = caplog.messages
    assert line.startswith("training: 5 of 100 steps, ")
    assert "-" not in line
