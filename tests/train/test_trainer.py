import html
import itertools
import json
import logging
import math
import os
import signal

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer, models
from fastgan.data import open_source
from fastgan.data.stream import BatchStream
from fastgan.errors import NonFiniteError, UsageError
from fastgan.train import checkpoint
from fastgan.train.data import Batches
from fastgan.train.logging import Means

SMALL = {"latent": 8, "width": 4, "batch": 8, "steps": 6, "log_every": 2, "sample_every": 3, "checkpoint_every": 3}


@pytest.fixture
def images(images_npz):
    return open_source(images_npz)


def trainer(out=None, **options):
    config = Config.from_flags(**SMALL | options)
    torch.manual_seed(config.seed)
    networks = models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm=config.model.d_norm)
    return Trainer(*networks, config.loss.adversarial, config, out=out)


def stream(images, config):
    return BatchStream(images, config.data.batch, config.seed, torch.device("cpu"))


def weights(t):
    return torch.cat(
        [p.flatten() for m in (t.generator, t.discriminator, t.ema.module) for p in m.state_dict().values()]
    )


def test_a_run_writes_everything_that_is_documented(tmp_path, images, caplog):
    caplog.set_level(logging.INFO)
    t = trainer(tmp_path / "run")
    last = t.fit(stream(images, t.config), reference=images.images)
    run = tmp_path / "run"
    named = f"first sample grids: {run}/samples/fixed-00000003.png; the page of the run: {run}/report.html"
    assert caplog.messages.count(named) == 1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert lines[-1]["images"] == 6 * 8
    assert lines[-1]["loss/generator"] == last["loss/generator"]
    assert {"loss/discriminator", "logit/real", "range/fake_max", "speed/images_per_second"} <= lines[0].keys()
    assert checkpoint.steps_in(run / "checkpoints") == [3, 6]
    names = {p.name for p in (run / "samples").iterdir()}
    kinds = ("beside", "fixed", "fresh", "nearest", "strips", "truncation")
    grids = {f"{kind}-{step:08d}.png" for kind in kinds for step in (3, 6)}
    assert names == {*grids, "real.png", "fixed.webp"}
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    config = json.loads((run / "config.json").read_text())
    assert Config.from_dict(config["config"]) == t.config
    assert config["environment"]["torch"] == torch.__version__
    assert list((run / "tensorboard").iterdir())
    assert "finished" in (run / "report.html").read_text()


@pytest.mark.parametrize("options", [{}, {"loss": "wgan-gp", "d_steps": 2}, {"d_norm": "spectral", "r1_weight": 1.0}])
def test_resumed_equals_never_stopped_bit_for_bit(tmp_path, images, options):
    whole = trainer(tmp_path / "whole", **options)
    whole.fit(stream(images, whole.config))
    first = trainer(tmp_path / "run", **options | {"steps": 3})
    first.fit(stream(images, first.config))
    second = trainer(tmp_path / "run", **options, seed=0)
    second.fit(stream(images, second.config), resume=True)
    assert second.step == 6
    assert torch.equal(weights(whole), weights(second))
    lines = [
        [json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("whole", "run")
    ]
    for one, other in zip(*lines, strict=True):
        assert one["step"] == other["step"]
    assert lines[0][-1]["loss/generator"] == lines[1][-1]["loss/generator"]


def test_a_seed_repeats_a_run_and_another_seed_differs(images):
    runs = [trainer(seed=seed) for seed in (0, 0, 1)]
    for t in runs:
        t.fit(stream(images, t.config))
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert not torch.equal(weights(runs[0]), weights(runs[2]))


def test_sample_grids_do_not_change_what_is_trained(tmp_path, images):
    plain, sampling = trainer(), trainer(tmp_path / "run", sample_every=1)
    for t in (plain, sampling):
        t.fit(stream(images, t.config))
    assert torch.equal(weights(plain), weights(sampling))


class Loader:
    """Batches whose iterator is another object, as a data loader's is; the state belongs to the loader."""

    def __init__(self, stream):
        self.stream = stream
        self.state_dict, self.load_state_dict = stream.state_dict, stream.load_state_dict

    def __iter__(self):
        yield from self.stream


def test_a_loader_with_a_state_resumes_too(tmp_path, images):
    whole = trainer()
    whole.fit(stream(images, whole.config))
    trainer(tmp_path / "run", steps=3).fit(Loader(stream(images, whole.config)))
    t = trainer(tmp_path / "run")
    t.fit(Loader(stream(images, t.config)), resume=True)
    assert torch.equal(weights(whole), weights(t))


class Interrupting:
    """Sends this process a signal while batch `at` is read."""

    def __init__(self, batches, at, number):
        self.batches, self.at, self.number = batches, at, number
        self.state_dict, self.load_state_dict = batches.state_dict, batches.load_state_dict

    def __iter__(self):
        return self

    def __next__(self):
        self.at -= 1
        if self.at == 0:
            os.kill(os.getpid(), self.number)
        return next(self.batches)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_step_and_leaves_a_resumable_checkpoint(tmp_path, images, number):
    whole = trainer()
    whole.fit(stream(images, whole.config))
    t = trainer(tmp_path / "run")
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        t.fit(Interrupting(stream(images, t.config), 5, number))
    assert signal.getsignal(number) is before
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [3, 5]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "interrupted"
    again = trainer(tmp_path / "run")
    again.fit(stream(images, again.config), resume=True)
    assert torch.equal(weights(whole), weights(again))


def test_a_nan_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, images):
    t = trainer(tmp_path / "run", max_skipped=2)
    batches = itertools.chain(
        itertools.islice(stream(images, t.config), 4), iter([torch.full((8, 1, 28, 28), math.nan)] * 9)
    )
    message = "in 2 updates in a row, up to step 6; first bad: the batch's 'real' .*; the checkpoint of step 3 is whole"
    with pytest.raises(NonFiniteError, match=message):
        t.fit(batches)
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [3]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert "start anew with other images" in status["message"]
    assert "first bad: the batch" in html.unescape((tmp_path / "run" / "report.html").read_text())


def test_a_run_is_not_resumed_with_another_loss(tmp_path, images):
    t = trainer(tmp_path / "run", loss="hinge", steps=3)
    t.fit(stream(images, t.config))
    other = trainer(tmp_path / "run", loss="non-saturating")
    with pytest.raises(UsageError, match="a resumed run keeps its adversarial loss, which is 'hinge', got 'non-satur"):
        other.fit(stream(images, other.config), resume=True)


def test_nothing_is_overwritten_without_overwrite(tmp_path, images):
    t = trainer(tmp_path / "run")
    t.fit(stream(images, t.config))
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(
        UsageError, match="already holds a run; continue it with resume=True or replace it with overwrite=True"
    ):
        trainer(tmp_path / "run").fit(stream(images, t.config))
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [3, 6]
    trainer(tmp_path / "run", steps=2).fit(stream(images, t.config), overwrite=True)
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [2]
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(UsageError, match="not empty and holds no run"):
            trainer(tmp_path / "other").fit(stream(images, t.config), **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="expected a directory"):
        trainer(tmp_path / "file").fit(stream(images, t.config))
    with pytest.raises(UsageError, match="holds no run"):
        trainer(tmp_path / "nowhere").fit(stream(images, t.config), resume=True)


def test_custom_modules_on_a_custom_iterator():
    """Latents and logits of other shapes than ours, no run directory."""
    generator = nn.Sequential(nn.ConvTranspose2d(6, 4, 4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, 2), nn.Tanh())
    discriminator = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4))
    t = Trainer(
        generator, discriminator, "wgan-gp", Config.from_flags(steps=3, batch=5, d_steps=1), latent_shape=(6, 1, 1)
    )
    before = weights(t).clone()
    last = t.fit(torch.rand(5, 3, 8, 8) * 2 - 1 for _ in range(3))
    assert not torch.equal(weights(t), before)
    assert all(math.isfinite(v) for v in last.values())
    assert t.sample(torch.randn(2, 6, 1, 1)).shape == (2, 3, 8, 8)


def test_frozen_layers_stay_frozen():
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1))
    discriminator[1].requires_grad_(False)
    frozen, free = discriminator[1].weight.clone(), discriminator[3].weight.clone()
    generator, _ = models.build("mlp", resolution=28, channels=1, latent=8, width=4)
    Trainer(generator, discriminator, config=Config.from_flags(**SMALL)).fit(
        torch.rand(8, 1, 28, 28) * 2 - 1 for _ in range(6)
    )
    assert torch.equal(discriminator[1].weight, frozen)
    assert not torch.equal(discriminator[3].weight, free)


def test_the_configuration_names_the_adversarial_loss(tmp_path):
    networks = models.build("mlp", resolution=28, channels=1, latent=8, width=4)
    t = Trainer(*networks, "wgan-gp", Config.from_flags(**SMALL, d_steps=1), out=tmp_path / "run")
    t.fit(torch.rand(8, 1, 28, 28) * 2 - 1 for _ in range(6))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["loss"]["adversarial"] == "wgan-gp"
    with pytest.raises(UsageError, match="batch norm couples"):
        Trainer(*networks, "wgan-gp", Config.from_flags(d_norm="batch"))


def test_an_iterator_that_ends_early_is_an_error():
    with pytest.raises(UsageError, match="batches: ended after 2 of 6 steps"):
        trainer().fit(torch.rand(8, 1, 28, 28) * 2 - 1 for _ in range(2))


def test_unknown_losses_and_devices():
    networks = models.build("mlp", resolution=28, channels=1, latent=4, width=4)
    with pytest.raises(UsageError, match="did you mean 'wgan-gp'"):
        Trainer(*networks, "wgan-pg")
    with pytest.raises(UsageError, match="device: expected auto, cpu, cuda or cuda:N, got 'gpu'"):
        Trainer(*networks, config=Config.from_flags(device="gpu"))
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="device: cuda is not there"):
            Trainer(*networks, config=Config.from_flags(device="cuda"))


def test_an_interrupted_update_starts_again():
    t = trainer(accumulate=3, steps=1)
    batch = torch.zeros(8, 1, 28, 28)
    with pytest.raises(UsageError, match="batches: ended after 0 of 1 steps"):
        t.fit(iter([batch, batch]))
    seen, apply = [], t.state.updates["discriminator"].apply
    update = t.state.updates["discriminator"]
    update.apply = lambda *watch: (seen.append(len(update._losses)), apply(*watch))[1]
    t.fit(itertools.repeat(batch))
    assert seen == [3]


def test_weights_frozen_after_construction_are_an_error():
    t = trainer()
    next(t.discriminator.parameters()).requires_grad_(False)
    with pytest.raises(UsageError, match=r"network: the weights of .* freeze weights before that"):
        t.fit(itertools.repeat(torch.zeros(8, 1, 28, 28)))


@pytest.mark.parametrize(
    ("batch", "came"),
    [(torch.zeros(8, 1, 28, 28, dtype=torch.uint8), "a tensor of torch.uint8"), ([[0.0] * 28] * 8, "list")],
)
def test_batches_of_another_type_are_named(batch, came):
    with pytest.raises(UsageError, match=f"batches: expected float tensors .*, got {came}"):
        trainer().fit(itertools.repeat(batch))


def test_single_iterations_without_fit_equal_fit(images):
    fitted, iterated = trainer(), trainer()
    fitted.fit(stream(images, fitted.config))
    batches = Batches(stream(images, iterated.config), iterated.state)
    iterated.prepare(batches)
    for _ in range(6):
        iterated.iterate(batches, Means())
    assert iterated.step == 6
    assert torch.equal(weights(fitted), weights(iterated))


def test_without_an_argument_the_loss_is_the_configurations():
    config = Config.from_flags(loss="hinge", steps=1)
    networks = torch.nn.Linear(64, 4), torch.nn.Linear(4, 1)
    assert Trainer(*networks, config=config).loss.name == "hinge"
    assert Trainer(*networks, "wgan-gp", config).loss.name == "wgan-gp"
    assert Trainer(*networks).loss.name == "non-saturating"
