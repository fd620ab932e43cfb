"""Generation with labels: from the batches into both networks; small conditional networks of the test's own."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot, softplus

from fastgan import Config, Trainer
from fastgan.data.imageset import ImageSet
from fastgan.data.stream import BatchStream
from fastgan.errors import UsageError
from fastgan.train.nonfinite import first_bad_layer
from fastgan.train.step import TaskSteps

CLASSES = 3
CPU = torch.device("cpu")
SMALL = {
    "batch": 8,
    "log_every": 2,
    "sample_every": 4,
    "checkpoint_every": 2,
    "compile": "off",
    "lr_g": 2e-3,
    "lr_d": 2e-3,
}


class Generator(nn.Module):
    latent, classes = 4, CLASSES

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4 + CLASSES, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh())

    def forward(self, z, y):
        return self.net(torch.cat([z, one_hot(y, CLASSES).to(z.dtype)], 1)).view(-1, 1, 4, 4)


class Discriminator(nn.Module):
    """Projection discriminator (Miyato and Koyama 2018) on sixteen pixels."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.LeakyReLU(0.2))
        self.to_logit, self.embedding = nn.Linear(16, 1), nn.Embedding(CLASSES, 16)

    def forward(self, x, y):
        h = self.features(x)
        return self.to_logit(h).flatten() + (self.embedding(y) * h).sum(1)


class Auxiliary(nn.Module):
    auxiliary = True

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1 + CLASSES))

    def forward(self, x):
        logits = self.net(x)
        return logits[:, 0], logits[:, 1:]


def images(labels=True):
    """Class k is bright in row k."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, 64)
    x = rng.integers(0, 60, (64, 1, 4, 4), dtype=np.uint8)
    x[np.arange(64), 0, y] += 180
    return ImageSet(x, y if labels else None, "rows", "none")


def trainer(discriminator=Discriminator, out=None, loss="non-saturating", **options):
    torch.manual_seed(0)
    return Trainer(Generator(), discriminator(), loss, Config.from_flags(**SMALL | options), out=out)


def stream(**options):
    return BatchStream(images(), 8, 0, CPU, labels=True, **options)


def weights(t):
    parts = (t.generator, t.discriminator, t.ema.module)
    return torch.cat([v.flatten() for part in parts for v in part.state_dict().values()])


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_each_image_comes_with_its_label(share):
    labeled, plain = stream(share=share), BatchStream(images(), 8, 0, CPU, share=share)
    for _ in range(20):
        x, y = next(labeled)
        assert torch.equal(x, next(plain))
        assert y.dtype == torch.int64
        assert torch.equal(x.mean(3)[:, 0].argmax(1), y)
    with pytest.raises(UsageError, match=r"labels: rows has none, .*; use labeled images .*, or omit condition"):
        BatchStream(images(labels=False), 8, 0, CPU, labels=True)


@pytest.mark.parametrize("joint", [False, True])
def test_the_discriminators_loss_with_labels_written_out(joint):
    t = trainer(r1_weight=2.0)
    t.task.joint = joint
    (x, y), z = next(stream()), torch.randn(8, 4)
    result, gradients = TaskSteps(t.task).discriminator({"real": x, "labels": y}, {"z": z, "lazy": True})
    points = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(t.discriminator(points, y).sum(), points, create_graph=True)
    fake = t.generator(z, y).detach()  # of the same classes
    loss = softplus(-t.discriminator(x, y)).mean() + softplus(t.discriminator(fake, y)).mean()
    torch.testing.assert_close(result.log["loss/discriminator"], loss.detach())
    loss = loss + slope.square().flatten(1).sum(1).mean()  # γ/2 with γ = 2
    for ours, plain in zip(gradients, torch.autograd.grad(loss, t.discriminator.parameters()), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("joint", [False, True])
def test_an_auxiliary_classifier_written_out(joint):
    t = trainer(Auxiliary, auxiliary_weight=0.5)
    t.task.joint = joint
    (x, y), z = next(stream()), torch.randn(8, 4)
    fake = t.generator(z, y)
    (real_logits, real_classes), (fake_logits, fake_classes) = t.discriminator(x), t.discriminator(fake)
    loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
    loss = loss + 0.5 * (cross_entropy(real_classes, y) + cross_entropy(fake_classes, y))
    plain = torch.autograd.grad(loss, t.discriminator.parameters(), retain_graph=True)
    steps, batch = TaskSteps(t.task), {"real": x, "labels": y}
    _, gradients = steps.discriminator(batch, {"z": z, "lazy": True})
    torch.testing.assert_close(gradients, plain)
    plain = torch.autograd.grad(
        softplus(-fake_logits).mean() + 0.5 * cross_entropy(fake_classes, y), t.generator.parameters()
    )
    torch.testing.assert_close(steps.generator(batch, {"z": z, "labels": y})[1], plain)


@pytest.mark.parametrize(
    ("discriminator", "loss", "options"),
    [
        (Discriminator, "wgan-gp", {"d_steps": 2}),
        (Auxiliary, "hinge", {}),
        (Discriminator, "relativistic", {"accumulate": 2}),
    ],
)
def test_resumed_equals_never_stopped_bit_for_bit(tmp_path, discriminator, loss, options):
    whole = trainer(discriminator, loss=loss, steps=4, **options)
    whole.fit(stream())
    trainer(discriminator, tmp_path / "run", loss, steps=2, **options).fit(stream())
    again = trainer(discriminator, tmp_path / "run", loss, steps=4, **options)
    again.fit(stream(), resume=True)
    assert torch.equal(weights(whole), weights(again))
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"latent/path", "spread/fake"} <= line.keys()
    assert ("loss/classes" in line) == (discriminator is Auxiliary)


@pytest.mark.parametrize("discriminator", [Discriminator, Auxiliary])
def test_the_generator_learns_which_class_is_which(discriminator):
    t = trainer(discriminator, steps=300, log_every=300, sample_every=300, lr_g=4e-3, lr_d=4e-3, ema_images=200)
    t.fit(stream(), held_out=next(stream()))
    y = torch.arange(CLASSES).repeat_interleave(32)
    made = t.ema.module(torch.randn(len(y), 4), y)
    assert (made.mean(3)[:, 0].argmax(1) == y).float().mean() > 0.9


def test_samples_without_labels_go_through_all_classes():
    t = trainer()
    z = torch.randn(7, 4)
    with torch.no_grad():
        expected = t.ema.module(z, torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    np.testing.assert_array_equal(t.sample(z), expected.numpy())


def test_errors_of_labels_say_what_came():
    x, y = next(stream())
    message = r"batches: expected pairs of images and labels, int64 \[8\], as the generator has 3"
    for wrong, came in ((x, "none"), ((x, y.bool()), r"bool \[8\]"), ((x, y[:5]), r"int64 \[5\]")):
        with pytest.raises(UsageError, match=f"{message} classes, got labels {came}"):
            trainer(steps=1).fit(iter([wrong]))
    with pytest.raises(UsageError, match=r"classes: unconditional networks take no labels; .* with condition"):
        Config.from_flags(classes=3)


def test_unconditional_networks_ignore_labels():
    torch.manual_seed(0)
    networks = (
        nn.Sequential(nn.Linear(4, 16), nn.Unflatten(1, (1, 4, 4))),
        nn.Sequential(nn.Flatten(), nn.Linear(16, 1)),
    )
    t = Trainer(*networks, config=Config.from_flags(steps=1, compile="off"), latent_shape=(4,))
    t.fit(stream())
    assert t.state.batch.keys() == {"real"}
    assert t.state.noise["discriminator"].keys() == {"z", "lazy"}


def test_the_first_bad_layer_of_conditional_networks():
    t, (x, y) = trainer(), next(stream())
    steps, batch, noise = TaskSteps(t.task), {"real": x, "labels": y}, {"z": torch.randn(8, 4), "labels": y}
    assert first_bad_layer(steps, batch, noise) == ""
    t.discriminator.embedding.weight.data[0] = torch.nan
    assert first_bad_layer(steps, batch, noise).startswith("discriminator.embedding.weight")
