"""A task of one's own: two discriminators in a ModuleDict, one generator, batches as dictionaries of three tensors."""

import json

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, softplus

from fastgan import Config, Trainer
from fastgan._util.random import Random
from fastgan.errors import NonFiniteError, UsageError
from fastgan.losses import r1
from fastgan.tasks import Loss, Task
from fastgan.testing.batches import Resumable

SMALL = {"batch": 6, "steps": 4, "log_every": 2, "sample_every": 2, "checkpoint_every": 2, "compile": "off"}


class TwoScales(Task):
    """Images of a latent and a mask; a discriminator of the images and one of images of half the side."""

    real = "images"

    def draw(self, network, batch, random, step):
        return {"z": random.normal(len(batch["images"]), 4)}

    def logits(self, images):
        return self.discriminator["fine"](images), self.discriminator["coarse"](avg_pool2d(images, 2))

    def discriminator_loss(self, batch, noise):
        with torch.no_grad():
            fake = self.generator(noise["z"]) * batch["mask"]
        parts = zip(self.logits(batch["images"]), self.logits(fake), strict=True)
        adversarial = sum(softplus(-real).mean() + softplus(fake).mean() for real, fake in parts)
        penalty = r1(self.discriminator["fine"], batch["images"], weight=0.1)
        return Loss(adversarial + penalty, {"penalty/r1": penalty})

    def generator_loss(self, batch, noise):
        fake = self.generator(noise["z"]) * batch["mask"]
        reconstruction = (fake.mean((2, 3)) - batch["mean"]).square().mean()
        adversarial = sum(softplus(-logits).mean() for logits in self.logits(fake))
        return Loss(adversarial + reconstruction, {"loss/generator": adversarial, "loss/mean": reconstruction})

    def samples(self, batch, held_out, step):
        z = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
        return {"made": self.generator(z), "masked": (self.generator(z) * batch["mask"][:4], 2)}

    def measures(self, batch, held_out, step):
        return {} if held_out is None else {"mean/held_out": held_out["images"].mean()}


class Masked(Resumable):
    """{"images": [6, 1, 8, 8], "mask": the same, "mean": [6, 1]}, the same every time, from where a run left off."""

    def batch(self, source):
        images = torch.rand(6, 1, 8, 8, generator=source) * 2 - 1
        mask = (torch.rand(6, 1, 8, 8, generator=source) > 0.2).float()
        return {"images": images * mask, "mask": mask, "mean": (images * mask).mean((2, 3))}


def networks():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))

    def discriminator(side):
        return nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * side**2, 1))

    return generator, nn.ModuleDict({"fine": discriminator(8), "coarse": discriminator(4)})


def trained(out=None, resume=False, held_out=None, **options):
    trainer = Trainer(*networks(), config=Config.from_flags(**SMALL | options), task=TwoScales, out=out)
    trainer.fit(Masked(), resume=resume, held_out=held_out)
    return trainer


def weights(trainer):
    return torch.cat([v.flatten() for n in trainer.state.networks.values() for v in n.state_dict().values()])


def test_its_training_is_the_loop_written_out():
    """Two iterations by hand: Adam on both losses, in the order and with the noise of the trainer."""
    trainer = trained(steps=2, lr_g=1e-3, lr_d=1e-3, ema_images=0)
    generator, discriminator = networks()
    task, random = TwoScales(generator, discriminator), Random(0, torch.device("cpu"))
    optimizers = [torch.optim.Adam(n.parameters(), 1e-3, (0.5, 0.999)) for n in (discriminator, generator)]
    stream = Masked()
    for step in range(2):
        batch = next(stream)
        for optimizer, loss, network in zip(
            optimizers, (task.discriminator_loss, task.generator_loss), ("discriminator", "generator"), strict=True
        ):
            for each in optimizers:
                each.zero_grad()
            loss(batch, task.draw(network, batch, random, step)).value.backward()
            optimizer.step()
    for own, theirs in ((trainer.generator, generator), (trainer.discriminator, discriminator)):
        for mine, other in zip(own.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_what_a_run_of_it_writes(tmp_path):
    trained(tmp_path / "run", held_out=next(Masked()))
    run = tmp_path / "run"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss/discriminator", "loss/generator", "loss/mean", "penalty/r1", "mean/held_out"} <= last.keys()
    assert last["images"] == 4 * 6
    assert {path.name for path in (run / "samples").glob("*-00000004.png")} == {
        "made-00000004.png", "masked-00000004.png"
    }  # fmt: skip
    facts = json.loads((run / "config.json").read_text())
    assert (facts["task"], facts["loss"]["unbounded"]) == ("TwoScales", False)
    page = (run / "report.html").read_text()
    assert page.count("samples of the task") >= 2
    assert "masked" in page


def test_it_resumes_bit_for_bit(tmp_path):
    whole = trained(tmp_path / "whole")
    trained(tmp_path / "run", steps=2)
    resumed = trained(tmp_path / "run", resume=True)
    assert torch.equal(weights(whole), weights(resumed))


def test_its_steps_are_compiled_whole():
    eager, compiled = trained(), trained(compile="on")
    assert compiled.steps.mode == "on"
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{"accumulate": 2, "d_steps": 2}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_what_the_trainer_adds_works_for_it(options):
    trainer = trained(**options)
    assert trainer.state.images == 4 * 6 * options.get("accumulate", 1) * options.get("d_steps", 1)
    assert all(weight.isfinite().all() for weight in trainer.generator.parameters())
    # The averaged generator follows the trained one.
    assert not torch.equal(next(trainer.ema.module.parameters()), next(networks()[0].parameters()))


class Undefined(Task):
    pass


class Other(TwoScales):
    def collate(self, batch, name="batches"):
        return super().collate({**batch, "mean": batch["mean"][:3]}, name)


def test_errors_name_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"Undefined defines no discriminator_loss\(batch, noise\)"):
        Trainer(*networks(), config=Config.from_flags(**SMALL), task=Undefined).fit(iter([torch.zeros(2, 1, 8, 8)] * 9))
    trainer = Trainer(*networks(), config=Config.from_flags(**SMALL), task=TwoScales)
    with pytest.raises(UsageError, match="batches: expected an entry 'images', got 'photos'"):
        trainer.fit(iter([{"photos": torch.zeros(2, 1, 8, 8)}]))
    with pytest.raises(UsageError, match="batches: expected a dictionary of tensors, a tensor or a pair, got str"):
        trainer.fit(iter(["images"]))
    with pytest.raises(UsageError, match="batches: expected tensors of one length"):
        Trainer(*networks(), config=Config.from_flags(**SMALL), task=Other).fit(Masked())
    with pytest.raises(UsageError, match="reference: it is for generation from latents, got TwoScales; leave it out"):
        trainer.fit(Masked(), reference=torch.zeros(2, 1, 8, 8, dtype=torch.uint8).numpy())


@pytest.mark.parametrize("option", ["r1_weight", "instance_noise", "feature_matching"])
def test_options_of_the_built_in_tasks_are_refused(option):
    with pytest.raises(UsageError, match=f"{option}: the built-in tasks compute it, and this task is your own"):
        Trainer(*networks(), config=Config.from_flags(**SMALL, **{option: 0.5}), task=TwoScales)
    Trainer(*networks(), config=Config.from_flags(**SMALL, historical_averaging=0.5, clip=1.0), task=TwoScales)


def test_positional_pairs_are_taken_as_real_and_labels():
    batch = (torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    found = Undefined(*networks()).collate(batch)
    assert found.keys() == {"real", "labels"}
    assert found["labels"] is batch[1]
    assert Undefined(*networks()).collate(batch[0]).keys() == {"real"}


def test_the_configuration_of_a_run_can_be_given_again():
    first = Trainer(*networks(), config=Config.from_flags(**SMALL), task=TwoScales)
    Trainer(*networks(), config=Config.from_dict(first.config.to_dict()), task=TwoScales)


def test_what_is_no_task_is_refused():
    with pytest.raises(UsageError, match="task: expected a Task, or a function that returns one, got NoneType of it"):
        Trainer(*networks(), config=Config.from_flags(**SMALL), task=lambda g, d: None)


class NotFinite(TwoScales):
    def draw(self, network, batch, random, step):
        names = {"discriminator": "z", "generator": "latent"}
        return {names[network]: random.normal(len(batch["images"]), 4)}

    def discriminator_loss(self, batch, noise):
        loss = super().discriminator_loss(batch, noise)
        return Loss(loss.value / 0.0, {"loss/sum": loss.value / 0.0})

    def generator_loss(self, batch, noise):
        return super().generator_loss(batch, {"z": noise["latent"]})


def test_what_is_not_finite_is_diagnosed_with_the_noise_of_each_network():
    config = Config.from_flags(**SMALL | {"steps": 8, "log_every": 1}, max_skipped=3)
    with pytest.raises(NonFiniteError, match=r"discriminator's loss .* first bad: loss/\w+ of the discriminator"):
        Trainer(*networks(), config=config, task=NotFinite).fit(Masked())


class Viewed(nn.Module):
    """Flattens by a view, for which channels_last is no format; only the generator's loss calls it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, 1, 1)

    def forward(self, x):
        return self.conv(x).view(len(x), -1).mean(1)


def test_networks_of_the_generators_loss_alone_decide_on_the_memory_format():
    generator, discriminator = networks()

    class Task(TwoScales):
        def generator_loss(self, batch, noise):
            loss = super().generator_loss(batch, noise)
            return Loss(loss.value + self.discriminator["encoder"](batch["images"]).square().mean(), loss.log)

    discriminator["encoder"] = Viewed()
    trainer = Trainer(generator, discriminator, config=Config.from_flags(**SMALL), task=Task)
    trainer.fit(Masked())
    assert trainer.state.channels_last is False


class Vector(TwoScales):
    def discriminator_loss(self, batch, noise):
        return Loss(super().discriminator_loss(batch, noise).value, {"means": batch["mean"].mean(1)})


def test_what_is_logged_is_a_scalar():
    with pytest.raises(UsageError, match=r"means: expected a scalar to log, got \[6\]"):
        Trainer(*networks(), config=Config.from_flags(**SMALL), task=Vector).fit(Masked())
