"""What does not fit on the first batch is one sentence, before any step; what fits is not refused."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import fastgan
from fastgan import Config, Trainer
from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL
from fastgan.tasks import Loss

REAL = torch.linspace(-1, 1, 8 * 3 * 64).view(8, 3, 8, 8)


class Generator(nn.Module):
    latent = 8

    def __init__(self, last=torch.tanh):
        super().__init__()
        self.linear, self.last = nn.Linear(8, 3 * 64), last

    def forward(self, z):
        return self.last(self.linear(z)).view(-1, 3, 8, 8)


def discriminator(*tail):
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 1), *tail)


class Functional(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.body, self.last = discriminator(), last

    def forward(self, x):
        return self.last(self.body(x))


class Gated(nn.Module):
    """A sigmoid within, whose values do not come out."""

    def __init__(self):
        super().__init__()
        self.gate, self.body = nn.Conv2d(3, 3, 1), discriminator()

    def forward(self, x):
        return self.body(x * torch.sigmoid(self.gate(x)))


def fit(batch=REAL, generator=None, network=None, loss="non-saturating", task=None, latent_shape=None, **options):
    config = Config.from_flags(**{"steps": 1, "log_every": 1, "compile": "off", "batch": 8, **options})
    trainer = Trainer(
        generator or Generator(), network or discriminator(), loss, config, task=task, latent_shape=latent_shape
    )
    trainer.fit(itertools.repeat(batch))
    return trainer


@pytest.mark.parametrize(
    "network",
    [
        discriminator(nn.Sigmoid()),
        nn.Sequential(nn.Sequential(discriminator(nn.Sequential(nn.Sigmoid())))),
        Functional(torch.sigmoid),
        Functional(F.hardsigmoid),
        Functional(lambda x: x.sigmoid_().squeeze(1)),
        nn.Sequential(nn.Conv2d(3, 1, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        fastgan.fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 6), nn.Sigmoid())),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.Softmax(1)),
    ],
)
@pytest.mark.parametrize("loss", ["non-saturating", "hinge"])
def test_a_discriminator_that_ends_in_a_sigmoid_is_refused(network, loss):
    with pytest.raises(UsageError, match=r"discriminator: expected logits, .* squashed twice; leave the last s"):
        fit(network=network, loss=loss)


def test_sigmoids_that_are_right_are_not_refused():
    fit(network=Gated())
    fit(network=discriminator(nn.Sigmoid()), loss="least-squares")
    log = ADVERSARIAL["non-saturating"]
    own = dataclasses.replace(
        log, name="own", logits=False, d_loss=lambda real, fake: -(real.log() + (1 - fake).log()).mean(),
        g_loss=lambda fake: -fake.log().mean(), labels=False,
    )  # fmt: skip
    fit(network=discriminator(nn.Sigmoid()), loss=own)

    class Probabilities(fastgan.Task):
        def discriminator_loss(self, batch, noise):
            return Loss(F.binary_cross_entropy(self.discriminator(batch["real"]), torch.ones(8, 1)))

        def generator_loss(self, batch, noise):
            return Loss(F.binary_cross_entropy(self.discriminator(self.generator(torch.ones(8, 8))), torch.ones(8, 1)))

    fit(network=discriminator(nn.Sigmoid()), task=Probabilities)


def ranged(span, last=torch.tanh):
    generator = Generator(last)
    generator.range = span
    return generator


@pytest.mark.parametrize(
    ("batch", "generator", "message"),
    [
        ((REAL + 1) * 127.5, Generator(), r"batches: values go from 0 to 255, .* in \[-1, 1\], as it ends in a tanh; "
         r"use images / 127\.5 - 1"),
        ((REAL + 1) * 127.5, Generator(lambda x: x), r"batches: values go from 0 to 255, expected \[-1, 1\]"),
        ((REAL + 1) * 127.5, ranged((0, 1), torch.sigmoid), "use images / 255"),
        ((REAL + 1) / 2, Generator(), r"batches: values go from 0 to 1, .*; use 2 \* images - 1"),
        ((REAL + 1) / 2, ranged((-1, 1), lambda x: x), r"by its attribute `range`; use 2 \* images - 1"),
        (REAL, ranged((0, 1)), r"in \[0, 1\], by its attribute `range`; use \(images \+ 1\) / 2"),
        (REAL, Generator(torch.sigmoid), r"in \[0, 1\], as it ends in a sigmoid; use \(images \+ 1\) / 2"),
    ],
)  # fmt: skip
def test_values_in_another_range_are_refused(batch, generator, message):
    with pytest.raises(UsageError, match=message):
        fit(batch, generator)


def test_values_that_are_right_are_not_refused(caplog):
    fit((REAL + 1) / 2, ranged((0, 1), torch.sigmoid))
    fit((REAL + 1) / 2, Generator(torch.sigmoid))
    fit((REAL + 1) / 2, Generator(lambda x: x))  # not known
    fit(REAL * 0.5 + 0.5 - 1e-4, ranged((0, 1)))
    fit(torch.rand(8, 5) * 300, nn.Sequential(nn.Linear(64, 5)), nn.Linear(5, 1))  # no pictures
    fit(torch.full((8, 3, 8, 8), 0.9))
    assert "cannot make" not in caplog.text
    fit(REAL * 2.6)  # scaled by mean and deviation
    assert "[-1, 1], as it ends in a tanh: it cannot make the others" in caplog.text


def test_held_out_images_and_pairs_are_checked_too():
    trainer = Trainer(Generator(), discriminator(), config=Config.from_flags(steps=1, compile="off"))
    with pytest.raises(UsageError, match="held_out: values go from 0 to 1"):
        trainer.fit([REAL], held_out=(REAL + 1) / 2)

    class Paint(nn.Module):
        source_channels = 1

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 1)

        def forward(self, source):
            return torch.tanh(self.conv(source))

    with pytest.raises(UsageError, match="batches: values go from 0 to 255"):
        fit((REAL[:, :1], (REAL + 1) * 127.5), Paint())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (REAL.permute(0, 2, 3, 1), r"got \[8, 8, 8, 3\]; the channels come second: images.permute\(0, 3, 1, 2\)"),
        (REAL[:, :1], r"expected images \[8, 3, 8, 8\] as the generator makes them, got \[8, 1, 8, 8\]; convert their"),
        (REAL.repeat(1, 1, 2, 2), r"got \[8, 3, 16, 16\]; resize them"),
        (((REAL + 1) * 127.5).byte(), r"got a tensor of torch.uint8; of pixels from 0 to 255 take images / 127.5 - 1"),
        (REAL.numpy(), "got ndarray float32 .*torch.from_numpy"),
        ([REAL, REAL, REAL], r"got list of 3 \(float32 \[8, 3, 8, 8\], "),
        ({"image": REAL}, r"got \{'image': float32 .*\}; name its entries 'real'"),
    ],
)
def test_images_that_do_not_fit_are_named(batch, message):
    with pytest.raises(UsageError, match=f"^batches: .*{message}"):
        fit(batch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_in_other_floating_dtypes_are_converted(dtype):
    trainer = fit(REAL.to(dtype))
    assert trainer.state.batch["real"].dtype == torch.float32
    torch.testing.assert_close(trainer.state.batch["real"], REAL, atol=1e-2, rtol=0)


def test_networks_in_other_dtypes_are_named():
    with pytest.raises(UsageError, match=r"generator: expected weights in float32, got float16; use generator.float\("):
        fit(generator=Generator().half())
    with pytest.raises(UsageError, match="discriminator: expected weights in float32, got bfloat16"):
        fit(network=discriminator().bfloat16())


def test_networks_in_double_take_images_in_double():
    class Double(Generator):
        def forward(self, z):
            return super().forward(z.double())

    trainer = fit(generator=Double().double(), network=discriminator().double())
    assert trainer.state.batch["real"].dtype == torch.float64


def test_the_shape_of_latents_is_found():
    generator = nn.Sequential(nn.ConvTranspose2d(10, 3, 8), nn.Tanh())
    with pytest.raises(UsageError, match=r"generator: it cannot take z float32 \[8, 64\] .*latent_shape=\(10, 1, 1\)"):
        fit(generator=generator)
    fit(generator=generator, latent_shape=(10, 1, 1))


@pytest.mark.parametrize(
    ("outputs", "came"),
    [
        (lambda y: [y, y.mean()], "2 outputs in a list"),
        (lambda y: (y, y), "2 outputs in a tuple"),
        (lambda y: {"logits": y}, "1 outputs in a dict"),
        (lambda y: None, "NoneType"),
    ],
)
def test_a_discriminator_of_several_outputs_is_named(outputs, came):
    message = f"expected a tensor of logits, or a list of tensors [N, ...] at several scales, got {came}"
    with pytest.raises(UsageError, match=re.escape(message)):
        fit(network=Functional(outputs))


def test_networks_that_fail_are_named():
    with pytest.raises(UsageError, match=r"discriminator: it cannot take images float32 .* \(mat1 and mat2"):
        fit(network=nn.Sequential(nn.Flatten(), nn.Linear(5, 1)))
    generator = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 192), nn.Unflatten(1, (3, 8, 8)))
    with pytest.raises(UsageError, match=r"generator: it cannot take z float32 .*\(Expected more than 1 value per cha"):
        fit(REAL[:1], generator)


class Labeled(nn.Module):
    latent = 8

    def __init__(self, classes=None):
        super().__init__()
        self.body, self.embedding = Generator(), nn.Embedding(5, 8)
        if classes:
            self.classes = classes

    def forward(self, z, y):
        return self.body(z * self.embedding(y))


class LabeledDiscriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.embedding = discriminator(), nn.Embedding(5, 1)

    def forward(self, x, y):
        return self.body(x) + self.embedding(y)


def test_generators_with_labels_that_do_not_say_so_are_told_how():
    with pytest.raises(UsageError, match=r"argument: 'y'.*; set its attribute `classes`, the number of classes"):
        fit((REAL, torch.arange(8) % 5), Labeled())
    fit((REAL, torch.arange(8) % 5), Labeled(5), LabeledDiscriminator())


def test_more_classes_than_a_network_has_are_named_before_one_is_drawn():
    message = r"generator: it cannot take z float32 \[8, 8\] and int64 \[8\] of 9 classes \(index out of range"
    for _ in range(3):  # no matter which labels come first
        with pytest.raises(UsageError, match=message):
            fit((REAL, torch.zeros(8, dtype=torch.long)), Labeled(9), LabeledDiscriminator())


def test_arguments_of_other_types_are_named():
    with pytest.raises(UsageError, match=r"generator: expected a torch\.nn\.Module, got the class Generator"):
        Trainer(Generator, discriminator())
    with pytest.raises(UsageError, match=r"discriminator: expected a torch\.nn\.Module, got function"):
        Trainer(Generator(), discriminator)
    trainer = Trainer(Generator(), discriminator(), config=Config.from_flags(steps=1))
    with pytest.raises(UsageError, match=r"reference: expected an array of numpy, .* got float32 \[8, 3, 8, 8\]"):
        trainer.fit([REAL], reference=REAL)
    for wrong, came in ((print, "builtin_function_or_method"), ([3], "list of 1")):
        with pytest.raises(UsageError, match=f"callbacks: expected a list of functions of TrainFacts, got {came}"):
            trainer.fit([REAL], callbacks=wrong)
    for name, value in (("steps", "8"), ("lr_g", "1e-4")):
        with pytest.raises(UsageError, match=f"{name}: expected a number >.*, got '{value}'"):
            Config.from_flags(**{name: value})


def test_the_check_leaves_no_trace():
    def weights():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
        body.append(nn.utils.parametrizations.spectral_norm(nn.Linear(64, 1)))
        trainer = fit(network=body, steps=3)
        return torch.cat([value.flatten().float() for value in trainer.discriminator.state_dict().values()])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastgan.train.first_batch.check", lambda *_: None)
        expected = weights()
    assert torch.equal(weights(), expected)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_networks_with_older_norms_are_copied_after_a_forward_pass(norm):
    generator, network = Generator(), discriminator()
    norm(generator.linear)
    norm(network[0])
    generator(torch.randn(2, 8)).sum().backward()
    network(REAL)
    trainer = fit(generator=generator, network=network, steps=2, ema_images=0.0)
    z = torch.randn(2, 8)
    torch.testing.assert_close(trainer.ema.module(z), trainer.generator.eval()(z))


def test_a_network_that_keeps_its_features_is_copied():
    class Keeping(Generator):
        def forward(self, z):
            self.features = [self.linear(z)]
            self.mean = self.features[0].mean()
            return super().forward(z)

    generator = Keeping()
    generator(torch.randn(2, 8))
    fit(generator=generator)


def test_grids_show_images_of_another_range_as_they_are(tmp_path):
    """Black is black where images are in [0, 1], in the picture of the data and of the samples."""
    config = Config.from_flags(steps=1, log_every=1, compile="off", batch=8)
    generator = Generator(lambda x: torch.sigmoid(x * 0 - 20))
    trainer = Trainer(generator, discriminator(), config=config, out=tmp_path / "run")
    trainer.fit([(REAL > 0).float()])
    for name, expected in (("real", {0, 255}), ("fresh-00000001", {0})):
        picture = np.asarray(Image.open(tmp_path / "run" / "samples" / f"{name}.png"))
        assert set(np.unique(picture[16:-16, 16:66])) >= expected
        assert np.isin(picture, (0, 255)).all()
