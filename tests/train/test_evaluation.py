"""FID and KID while a run trains, the best checkpoint, early stops, and callbacks."""

import json
import logging

import numpy as np
import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.evaluate import evaluate
from fastgan.train import checkpoint
from fastgan.train import evaluation as evaluation_module
from fastgan.train.callbacks import TrainFacts

from .numbered import Images

SMALL = {"steps": 6, "batch": 4, "latent": 4, "compile": "off", "log_every": 2, "sample_every": 100, "eval_n": 120,
         "checkpoint_every": 100, "keep_checkpoints": 1}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def real():
    """240 images of two classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (240, 1, 8, 8), dtype=np.uint8)
    images[::2, :, 2:6, 2:6] += 150
    return ImageSet(images, np.arange(240, dtype=np.int64) % 2, "squares", "none")


def made(out=None, **flags):
    torch.manual_seed(0)
    networks = models.build("mlp", resolution=8, channels=1, latent=4, width=8)
    return Trainer(*networks, config=Config.from_flags(**SMALL | flags), out=out)


def values(trainer, name):
    return {row["step"]: row[key] for row in trainer.state.rows for key in row if key.startswith(f"eval/{name}")}


def weights(trainer):
    return torch.cat([v.flatten().float() for n in trainer.state.networks.values() for v in n.state_dict().values()])


def test_the_values_are_those_of_evaluate_and_change_nothing(real, tmp_path):
    plain = made()
    plain.fit(Images())
    trainer = made(tmp_path / "run", eval_every=3, eval_extractor="digits")
    trainer.fit(Images(), reference=real)
    assert torch.equal(weights(plain), weights(trainer))
    found = values(trainer, "fid120")
    assert found.keys() == {3, 6}
    z = np.random.default_rng(0).standard_normal((120, 4), dtype=np.float32)
    samples = ((trainer.sample(torch.from_numpy(z)) * 127.5 + 127.5).clip(0, 255) + 0.5).astype(np.uint8)
    expected = evaluate(samples, real, trainer._evaluation._extractor, metrics="fid", n=120)["fid"]
    assert found[6] == pytest.approx(expected.value, rel=1e-3)
    (name,) = [key for key in trainer.state.rows[-1] if key.startswith("eval/")]
    assert name == f"eval/{expected.name}"
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"best, at step {min(found, key=found.get)}" in page


class Scores:
    """Stands in for the metric: the scores of the evaluations, one after the other."""

    def __init__(self, monkeypatch, *scores):
        scores = iter(scores)
        monkeypatch.setattr(evaluation_module, "open_extractor", lambda *_: type("E", (), {"about": "a stand-in"}))
        monkeypatch.setattr(evaluation_module, "evaluate", lambda *_, **__: {"kid": Row(next(scores))})


class Row:
    name = "kid120_stand_in"

    def __init__(self, value):
        self.value = value


FLAGS = {"eval_every": 1, "eval_metric": "kid"}


def test_the_best_checkpoint_stays(real, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    Scores(monkeypatch, 5, 3, 4, 2.5, 3, 6)
    trainer = made(tmp_path / "run", **FLAGS)
    trainer.fit(Images(), reference=real)
    assert list(values(trainer, "kid").values()) == [5, 3, 4, 2.5, 3, 6]
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [4, 6]
    assert f"best kid120_stand_in: 2.5 at step 4 ({tmp_path}/run/checkpoints/00000004)" in caplog.messages


def test_a_run_stops_where_nothing_improves_and_resumes_knowing_what_was_best(real, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    Scores(monkeypatch, 5, 3, 4, 4)
    trainer = made(tmp_path / "run", eval_patience=2, **FLAGS)
    trainer.fit(Images(), reference=real)
    assert trainer.step == 4
    why = "the last 2 evaluations are not better than kid120_stand_in 3 at step 2 (--eval-patience)"
    assert f"stopped at step 4: {why}" in caplog.messages
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["message"]) == ("finished", why)
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [2, 4]
    Scores(monkeypatch, 2, 9)
    again = made(tmp_path / "run", eval_patience=2, **FLAGS)
    again.fit(Images(), reference=real, resume=True)
    assert again.step == 6
    assert again._evaluation.best == {"step": 5, "name": "kid120_stand_in", "value": 2}
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [5, 6]


def test_the_best_checkpoint_of_earlier_evaluations_stays_without_more_of_them(real, tmp_path, monkeypatch):
    Scores(monkeypatch, 5, 3, 4)
    made(tmp_path / "run", steps=3, **FLAGS).fit(Images(), reference=real)
    made(tmp_path / "run", eval_metric="kid").fit(Images(), resume=True)
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [2, 6]


def test_what_an_evaluation_needs(real):
    with pytest.raises(UsageError, match="eval_every: samples are compared with real images; give fit"):
        made(eval_every=2).fit(Images())
    with pytest.raises(UsageError, match="eval_patience: without evaluations nothing is compared"):
        made(eval_patience=2)
    with pytest.raises(UsageError, match="eval_metric: expected fid or kid, got 'is'"):
        made(eval_metric="is")
    with pytest.raises(UsageError, match=r"reference: expected images like the generator's, \[1, 8, 8\], got"):
        made(eval_every=2).fit(Images(), reference=np.zeros((9, 1, 9, 9), np.uint8))
    with pytest.raises(UsageError, match="extractor: digits is trained with labels, and the reference has none"):
        made(eval_every=2, eval_extractor="digits").fit(Images(), reference=real.images)


def test_callbacks_see_every_interval_and_change_nothing():
    plain, seen = made(), []
    plain.fit(Images())

    def note(facts):
        torch.rand(5)
        seen.append(facts)

    trainer = made()
    trainer.fit(Images(), callbacks=[note])
    assert [facts.step for facts in seen] == [2, 4, 6]
    assert isinstance(seen[0], TrainFacts)
    assert (seen[-1].images, seen[-1].steps, seen[-1].out, seen[-1].best) == (24, 6, None, None)
    assert seen[0].metrics["loss/generator"] == trainer.state.rows[0]["loss/generator"]
    with pytest.raises(TypeError):
        seen[0].metrics["loss/generator"] = 0
    assert seen[-1].generator is trainer.ema.module
    assert torch.equal(weights(plain), weights(trainer))


def test_a_callback_ends_a_run(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trainer = made(tmp_path / "run")
    figures = trainer.fit(Images(), callbacks=[lambda facts: facts.stop("enough") if facts.step >= 4 else True])
    assert trainer.step == 4
    assert "loss/generator" in figures
    assert "stopped at step 4: enough" in caplog.messages
    assert json.loads((tmp_path / "run" / "status.json").read_text())["message"] == "enough"
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [4]
    assert (tmp_path / "run" / "samples" / "fixed-00000004.png").exists()


def test_on_the_command_line(cli, images_npz, tmp_path):
    done = cli("train", "demo", "--data", images_npz, "--model", "mlp", "--width", 8, "--batch", 8, "--steps", 4,
               "--compile", "off", "--eval-every", 2, "--eval-n", 60, "--eval-metric", "kid", "--held-out", 20,
               "--eval-extractor", "stand-in", "--out", "run")  # fmt: skip
    assert done.returncode == 2
    assert "extractor: expected auto, digits" in done.stderr
