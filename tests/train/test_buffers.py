"""Running statistics that a skipped update has spoilt are set back, and training goes on."""

import json
import math

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer
from fastgan.train.buffers import GoodBuffers
from fastgan.train.ema import Ema


def networks():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))
    discriminator = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
    return generator, discriminator


def test_they_are_set_back_to_the_last_finite_ones_and_only_where_they_must():
    generator, discriminator = networks()
    guard = GoodBuffers({"generator": generator, "discriminator": discriminator})
    generator[1].running_mean.fill_(0.5)
    assert guard.keep_or_restore() == []
    generator[1].running_mean[2] = math.nan
    generator[1].running_var.fill_(3.0)
    discriminator[1].running_var.fill_(math.inf)
    discriminator[1].num_batches_tracked.fill_(7)
    assert guard.keep_or_restore() == ["generator.1.running_mean", "discriminator.1.running_var"]
    assert torch.equal(generator[1].running_mean, torch.full((6,), 0.5))
    assert torch.equal(generator[1].running_var, torch.full((6,), 3.0))
    assert torch.equal(discriminator[1].running_var, torch.ones(6))
    assert discriminator[1].num_batches_tracked == 7
    assert guard.keep_or_restore() == []


def test_networks_without_buffers():
    assert GoodBuffers({"discriminator": nn.Linear(2, 1)}).keep_or_restore() == []


def test_an_average_of_spoilt_statistics_is_mended_too():
    generator, discriminator = networks()
    ema = Ema(generator, 100.0)
    guard = GoodBuffers({"generator": generator, "discriminator": discriminator, "ema": ema.module})
    generator(torch.full((4, 4), math.nan))
    ema.update(generator, 4, 1)
    assert "ema.1.running_mean" in guard.keep_or_restore()
    for module in (generator, ema.module):
        assert all(v.isfinite().all() for v in module.state_dict().values())


def finite(trainer):
    return {
        f"{part}.{name}": bool(value.isfinite().all())
        for part in ("generator", "discriminator")
        for name, value in getattr(trainer, part).state_dict().items()
    } | {f"ema.{name}": bool(value.isfinite().all()) for name, value in trainer.ema.module.state_dict().items()}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_batch_costs_one_update(tmp_path, capfd, bad):
    rates = []

    def batches():
        for step in range(8):
            rates.append([g["lr"] for u in t.state.updates.values() for g in u.optimizer.param_groups])
            yield torch.full((6, 5), bad) if step == 2 else torch.rand(6, 5)

    config = Config.from_flags(steps=8, log_every=2, sample_every=100, checkpoint_every=4, compile="off", lr_g=1e-3, lr_d=2e-3)
    t = Trainer(*networks(), config=config, latent_shape=(4,), out=tmp_path)
    t._save_panels = lambda: None  # these images are vectors
    look = t.guard.look
    spoilt = []

    def check(say):
        spoilt.append(not all(finite(t).values()))
        look(say)

    t.guard.look = check
    t.fit(batches())
    assert spoilt == [False, True, False, False]  # without mending, it would stay so
    assert all(finite(t).values())
    assert t.guard.skipped == 1
    assert [u.skipped.item() for u in t.state.updates.values()] == [0, 1]
    assert rates == [[1e-3, 2e-3]] * 4 + [[5e-4, 1e-3]] * 2 + [[1e-3, 2e-3]] * 2
    said = capfd.readouterr().err
    assert "not finite at step 4, set back: discriminator.1.running_mean and 1 more" in said
    assert "skipped 1 updates that were not finite, up to step 4" in said

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_bad_latents_spoil_the_average_for_one_interval_only(tmp_path):
    config = Config.from_flags(steps=6, log_every=2, sample_every=100, checkpoint_every=100, compile="off")
    t = Trainer(*networks(), config=config, latent_shape=(4,))
    draw, at = t.noise.latents, []
    t.noise.latents = lambda n: draw(n) * (math.nan if at.append(0) or len(at) in (3, 4) else 1.0)
    t.fit(torch.rand(6, 5) for _ in range(6))
    assert [u.skipped.item() for u in t.state.updates.values()] == [1, 1]
    assert all(finite(t).values())
