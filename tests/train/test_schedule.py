"""Learning rates: what they are at each step, and that resumed and changed runs take the right ones."""

import json
import logging
import math

import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.train.config import check_resumed

from .numbered import Images

STEPS = 8
SMALL = {"steps": STEPS, "batch": 4, "latent": 4, "compile": "off", "lr_g": 1e-3, "lr_d": 2e-3, "log_every": 1,
         "sample_every": 100, "checkpoint_every": 4}  # fmt: skip


def trained(out=None, resume=False, stop_at=None, **flags):
    torch.manual_seed(0)
    networks = models.build("mlp", resolution=8, channels=1, latent=4, width=8)
    config = Config.from_flags(**SMALL | flags)
    trainer = Trainer(*networks, config.adversarial, config, out=out)
    if stop_at is not None:
        step = trainer.iterate

        def iterate(batches, means):
            if trainer.step == stop_at:
                raise KeyError("killed")
            step(batches, means)

        trainer.iterate = iterate
        with pytest.raises(KeyError, match="killed"):
            trainer.fit(Images(), resume=resume)
        return trainer
    trainer.fit(Images(), resume=resume)
    return trainer


def rates(trainer, name="rate/generator"):
    return [row.get(name) for row in trainer.state.rows]


def weights(trainer):
    return torch.cat([v.flatten().float() for n in trainer.state.networks.values() for v in n.state_dict().values()])


def test_the_rates_of_each_schedule():
    linear = trained(lr_schedule="linear", lr_decay_from=0.5)
    assert rates(linear) == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert rates(linear, "rate/discriminator") == pytest.approx([2 * rate for rate in rates(linear)])
    cosine = trained(lr_schedule="cosine")
    assert rates(cosine) == pytest.approx([5e-4 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])
    warm = trained(lr_warmup=3)
    assert rates(warm) == pytest.approx([2.5e-4, 5e-4, 7.5e-4, *[1e-3] * 5])
    assert "rate/generator" not in trained().state.rows[-1]


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_optimizers_take_the_scheduled_rates(optimizer):
    """As constant runs of these rates do, one step after the other."""
    found = trained(lr_schedule="linear", steps=3, optimizer=optimizer)
    by_hand = Trainer(*_fresh(), config=Config.from_flags(**SMALL | {"steps": 3, "optimizer": optimizer}))
    step, parts = by_hand.iterate, iter([1.0, 2 / 3, 1 / 3])

    def iterate(batches, means):
        part = next(parts)
        for rate, update in (
            (1e-3, by_hand.state.updates["generator"]),
            (2e-3, by_hand.state.updates["discriminator"]),
        ):
            update.set_rate(float(torch.tensor(rate * part)))
        step(batches, means)

    by_hand.iterate = iterate
    by_hand.fit(Images())
    torch.testing.assert_close(weights(found), weights(by_hand), rtol=0, atol=5e-5)  # a rate is some 1e-3


def _fresh():
    torch.manual_seed(0)
    return models.build("mlp", resolution=8, channels=1, latent=4, width=8)


@pytest.mark.parametrize("flags", [{"lr_schedule": "cosine", "lr_warmup": 2}, {"lr_schedule": "linear"}])
def test_a_killed_run_with_a_schedule_resumes_bit_for_bit(tmp_path, flags):
    whole = trained(tmp_path / "whole", **flags)
    trained(tmp_path / "run", stop_at=6, **flags)
    resumed = trained(tmp_path / "run", resume=True, **flags)
    assert torch.equal(weights(whole), weights(resumed))
    assert rates(whole) == rates(resumed)


def test_a_rate_changed_on_resume_is_the_new_one(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trained(tmp_path / "run", steps=4)
    changed = trained(tmp_path / "run", resume=True, lr_g=0.01)
    assert [u.optimizer.param_groups[0]["lr"] for u in changed.state.updates.values()] == [0.01, 2e-3]
    scheduled = trained(tmp_path / "run", resume=True, steps=12, lr_schedule="linear", lr_decay_from=0.67)
    assert rates(scheduled)[-4:] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    said = "lr_g 0.01 → 0.001, lr_schedule constant → linear, lr_decay_from 0.0 → 0.67"
    assert f"changed from step 8 on: {said}" in caplog.text
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [change["step"] for change in facts["changes"]] == [4, 8]
    assert facts["changes"][0] == {"step": 4, "lr_g": [1e-3, 0.01]}
    check_resumed(Config.from_dict(facts["config"]).with_flags(lr_g=1.0, lr_schedule="cosine", lr_warmup=2), facts, 1)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"lr_schedule": "step"}, "lr_schedule: expected constant, linear or cosine, got 'step'"),
        ({"lr_decay_from": 0.5}, "lr_decay_from: a constant schedule lowers nothing"),
        ({"lr_schedule": "linear", "lr_decay_from": 1.0}, r"lr_decay_from: expected a number in \[0, 1\), got 1.0"),
        ({"lr_warmup": -1}, "lr_warmup: expected a number >= 0, got -1"),
    ],
)
def test_schedules_that_make_no_sense(flags, sentence):
    with pytest.raises(UsageError, match=sentence):
        Config.from_flags(**SMALL | flags)
