"""Run directories that earlier versions wrote are read under the names of today."""

import json

import pytest

from fastgan.report.diagnostics import diagnoses
from fastgan.report.legacy import modernized_config, modernized_export, modernized_fields, modernized_row
from fastgan.report.load import read_run
from fastgan.report.page import page


@pytest.fixture
def old(tmp_path):
    """A run directory as an earlier version wrote it."""
    run = tmp_path / "old"
    run.mkdir()
    head = {
        "config": {"game": "non-saturating", "augment": "colour+cutout", "steps": 60, "lr_g": 0.01},
        "game": "wgan-gp",
        "neighbours": {"among": 4096, "of": 9950},
        "dataset": {"name": "embedded", "count": 10_000, "licence": "MIT"},
    }
    (run / "config.json").write_text(json.dumps(head))
    rows = [
        {"step": i, "loss/discriminator": -200.0, "critic/ranking": 0.9, "critic/memory": 0.5 if i < 40 else 0.9}
        for i in range(1, 61)
    ]
    past = {"name": "divergence", "since": 3, "until": 5, "evidence": "it grew", "remedies": ["patience"]}
    rows[9]["restored"] = [{**past, "left": 6, "to": 2, "rates": {"generator": 0.5}}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_an_old_run_is_read(old):
    run = read_run(old)
    assert run.config == {"loss": "wgan-gp", "augment": "color+cutout", "steps": 60, "lr_g": 0.01}
    assert run.unbounded
    assert run.neighbors == {"among": 4096, "of": 9950}
    assert run.dataset["license"] == "MIT"
    assert set(run.metrics[0]) == {"step", "loss/discriminator", "auroc/real_fake", "auroc/train_held_out"}
    found = [(d.name, d.since, d.until) for d in diagnoses(run.metrics, run.unbounded)]
    assert found == [("divergence", 3, 5), ("overfitting discriminator", 40, 60)]
    html = page(run)
    assert "<h3>AUROC</h3>" in html
    assert "at step 6 the run went back to step 2. May help: patience." in html
    assert "critic" not in html.split("<body>")[1]


@pytest.mark.parametrize(("game", "unbounded"), [("wgan", True), ("wgan-gp", True), ("hinge", False), ("mine", False)])
def test_whether_an_old_loss_is_unbounded(game, unbounded):
    assert modernized_config({"game": game})["loss"] == {"name": game, "unbounded": unbounded}
    assert modernized_config({"config": {"game": game}})["loss"] == {"name": game, "unbounded": unbounded}
    own = {"name": game, "unbounded": not unbounded}
    assert modernized_config({"game": game, "loss": own})["loss"] == own


def test_fields_and_exports():
    assert modernized_fields({"game": "hinge", "r1_interval": 4, "augment": "none", "width": 8}) == {
        "loss": "hinge", "penalty_interval": 4, "augment": "none", "width": 8}  # fmt: skip
    assert modernized_export({"quantisation": {"layers_quantised": 3, "seconds": 1}, "file": "a.onnx"}) == {
        "quantization": {"layers_quantized": 3, "seconds": 1}, "file": "a.onnx"}  # fmt: skip


def test_what_is_of_today_stays_as_it_is():
    row = {"step": 3, "auroc/real_fake": 0.5, "rollbacks": [{"from_step": 6, "to_step": 2, "suggestions": ["a"]}]}
    assert modernized_row(row) == row
    head = {
        "config": {"optim": {"lr_g": 1.0}},
        "loss": {"name": "x", "unbounded": False},
        "dataset": {"license": "MIT"},
    }
    assert modernized_config(head) == head


def test_odd_content_does_no_harm():
    assert modernized_row({"restored": 3}) == {}
    assert modernized_row({"restored": [1, {"left": 2}]}) == {"rollbacks": [{"from_step": 2}]}
    assert modernized_config({"config": 1, "dataset": None, "game": 7}) == {"config": 1, "dataset": None}


def test_nested_configurations_are_shown_by_field(tmp_path):
    head = {"config": {"optim": {"lr_g": 0.01}, "steps": 5}, "loss": {"name": "mine", "unbounded": True}}
    (tmp_path / "config.json").write_text(json.dumps(head))
    run = read_run(tmp_path)
    assert run.config == {"lr_g": 0.01, "steps": 5, "loss": "mine"}
    assert run.unbounded
