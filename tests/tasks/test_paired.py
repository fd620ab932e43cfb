"""Paired translation: generators that take source images, discriminators of pairs or of images alone, and L1."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, softplus

from fastgan import Config, Trainer, models
from fastgan.data import open_source
from fastgan.engine import CompiledStep
from fastgan.errors import UsageError
from fastgan.losses import perceptual_loss
from fastgan.regularization.history import History
from fastgan.report.diagnostics import diagnoses
from fastgan.report.page import write_report
from fastgan.tasks import sample_grids
from fastgan.tasks.measures import statistics
from fastgan.testing.batches import Resumable
from fastgan.train import samples
from fastgan.train.nonfinite import first_bad_layer
from fastgan.train.step import TaskSteps

SMALL = {
    "batch": 8,
    "log_every": 2,
    "sample_every": 4,
    "checkpoint_every": 2,
    "compile": "off",
    "lr_g": 2e-3,
    "lr_d": 2e-3,
}

PERCEPTUAL = {"task": "paired", "task_options": {"perceptual": "random"}}


class Upscaler(nn.Module):
    """Twice as large: bicubic, and what a small network adds."""

    source_channels = 1

    def __init__(self, width=4, dropout=0.0):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, 1, 1), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(width, 4, 3, 1, 1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, source):
        return self.net(source) + interpolate(source, scale_factor=2, mode="bicubic")


class Discriminator(nn.Module):
    """Classifies patches of the image and the source, stacked in channels."""

    source_channels = 1

    def __init__(self, width=4):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3, 1, 1))

    def forward(self, image, source):
        return self.net(torch.cat([image, interpolate(source, size=image.shape[2:])], 1))


def of_images():
    """A discriminator that sees the image alone, as SRGAN's does."""
    return nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 1))


class Pairs(Resumable):
    """Sources [8, 1, 4, 4] and targets [8, 1, 8, 8], the same every time, from where a run left off."""

    def batch(self, source):
        target = torch.rand(8, 1, 8, 8, generator=source) * 2 - 1
        return avg_pool2d(target, 2), target


def trainer(discriminator=Discriminator, out=None, loss="non-saturating", dropout=0.0, **options):
    torch.manual_seed(0)
    return Trainer(Upscaler(dropout=dropout), discriminator(), loss, Config.from_flags(**SMALL | options), out=out)


def weights(t):
    parts = (t.generator, t.discriminator, t.ema.module)
    return torch.cat([v.flatten() for part in parts for v in part.state_dict().values()])


def test_the_generators_loss_written_out():
    t, (source, target) = trainer(l1_weight=100.0), next(Pairs())
    batch = {"source": source, "target": target}
    result, gradients = TaskSteps(t.task).generator(batch, {"lazy": True})
    made = t.generator(source)
    distance = (target - made).abs().sum() / target.numel()
    loss = softplus(-t.discriminator(made, source)).mean() + 100 * distance
    torch.testing.assert_close(result.log["l1/batch"], distance.detach())
    torch.testing.assert_close(gradients, torch.autograd.grad(loss, t.generator.parameters()))
    rare = trainer(l1_weight=100.0, matching_interval=4)
    without, lazy = (TaskSteps(rare.task).generator(batch, {"lazy": lazy}) for lazy in (False, True))
    assert "l1/batch" not in without[0].log
    mean = [(3 * few + more) / 4 for few, more in zip(without[1], lazy[1], strict=True)]
    torch.testing.assert_close(mean, list(gradients), rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match=r"batches: expected pairs of sources, .*, got float32 .* and none"):
        t.task.collate({"source": source})


@pytest.mark.parametrize("joint", [False, True])
def test_the_discriminators_loss_written_out(joint):
    """Both are classified with their source; penalties differentiate in the image, the source stays as it is."""
    t, (source, target) = trainer(loss="wgan-gp", r1_weight=2.0), next(Pairs())
    t.task.joint = joint
    epsilon, discriminator = torch.rand(8, 1, 1, 1), t.discriminator
    noise = {"epsilon": epsilon, "lazy": True}
    _, gradients = TaskSteps(t.task).discriminator({"source": source, "target": target}, noise)
    fake = t.generator(source).detach()
    loss = discriminator(fake, source).mean() - discriminator(target, source).mean()
    for points, penalty in (
        (torch.lerp(target, fake, epsilon), lambda norm: 10 * (norm - 1).square().mean()),
        (target.clone(), lambda norm: norm.square().mean()),
    ):
        points.requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(points, source).sum(), points, create_graph=True)
        loss = loss + penalty(slope.flatten(1).norm(dim=1))
    for ours, plain in zip(gradients, torch.autograd.grad(loss, discriminator.parameters()), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


class Recording(nn.Module):
    """A discriminator that records its inputs."""

    def __init__(self, channels):
        super().__init__()
        self.net, self.source_channels, self.seen = of_images(), channels, []

    def forward(self, image, *source):
        self.seen.append((image.detach(), *source))
        return self.net(image)


@pytest.mark.parametrize("channels", [0, 1])
def test_what_the_discriminator_sees(channels):
    t, made = trainer(lambda: Recording(channels), steps=2, accumulate=2, l1_weight=1.0), []
    t.generator.register_forward_hook(lambda _, args, image: made.append((args[0], image.detach())))
    t.fit(Pairs())
    seen = t.discriminator.seen
    assert {len(beside) for _, *beside in seen} == {channels}
    batches = Pairs()
    for _ in range(4):
        source, target = next(batches)
        # Images are generated in the discriminator's step and in the generator's, from each batch of an update. Only
        # the last calls are of these steps: the networks also run before the first iteration.
        fakes = [image for of, image in made[-8:] if torch.equal(of, source)]
        assert len(fakes) == 2
        for image in (target, *fakes):
            shown = [beside for whole, *beside in seen if _among(image, whole)]
            assert shown
            assert all(_among(source, *beside) for beside in shown if channels)


def _among(part, whole):
    return any(torch.equal(part, half) for half in whole.split(len(part)))


@pytest.mark.parametrize(
    ("discriminator", "loss", "options"),
    [
        (Discriminator, "non-saturating", {"l1_weight": 10.0, "history": 8, "dropout": 0.5, "accumulate": 2}),
        (of_images, "wgan-gp", {"l1_weight": 1.0, "d_steps": 2, "augment": "translation"}),
        (Discriminator, "relativistic", {"feature_matching": 1.0, "instance_noise": 0.1, "instance_noise_steps": 9}),
        (Discriminator, "non-saturating", {"unroll": 2}),
        pytest.param(Discriminator, "non-saturating", PERCEPTUAL, marks=pytest.mark.full),
    ],
)
def test_resumed_equals_never_stopped_bit_for_bit(tmp_path, discriminator, loss, options):
    whole = trainer(discriminator, loss=loss, steps=4, **options)
    whole.fit(Pairs())
    trainer(discriminator, tmp_path / "run", loss, steps=2, **options).fit(Pairs())
    again = trainer(discriminator, tmp_path / "run", loss, steps=4, **options)
    again.fit(Pairs(), resume=True)
    assert torch.equal(weights(whole), weights(again))


def test_past_fakes_keep_their_sources():
    t = trainer(history=8)
    (source, target), (other, _) = next(Pairs()), (torch.ones(8, 1, 4, 4), None)
    history = History(8, torch.device("cpu"))
    history.add(t.generator(other).detach(), other, t.state.random)
    noise = history.draw(8, t.state.random)
    assert torch.equal(noise["past_condition"], other[:4])
    result, gradients = TaskSteps(t.task).discriminator({"source": source, "target": target}, noise)
    fake = torch.cat([t.generator(other)[:4], t.generator(source)[4:]]).detach()
    beside = torch.cat([other[:4], source[4:]])
    loss = softplus(-t.discriminator(target, source)).mean() + softplus(t.discriminator(fake, beside)).mean()
    torch.testing.assert_close(result.log["loss/discriminator"], loss.detach())
    torch.testing.assert_close(gradients, torch.autograd.grad(loss, t.discriminator.parameters()))


@pytest.mark.parametrize(
    ("backend", "options"),
    [("eager", {}), *(pytest.param("inductor", options, marks=pytest.mark.full) for options in ({}, PERCEPTUAL))],
)
def test_compiled_training_is_eager_training(tmp_path, monkeypatch, backend, options):
    """backend: of PyTorch's compiler; "eager" captures the same graph and generates no code."""
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(
        CompiledStep, "_inductor", lambda self, f: torch.compile(f, fullgraph=True, dynamic=False, backend=backend)
    )
    torch._dynamo.reset()
    compiled, eager = (trainer(steps=2, l1_weight=10.0, compile=compile, **options) for compile in ("on", "off"))
    compiled.fit(Pairs())
    eager.fit(Pairs())
    assert compiled.steps.compiled
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-3, atol=1e-4)


def test_an_upscaler_has_a_smaller_distance_than_bicubic():
    x = torch.from_numpy(open_source("embedded").images[:2064]).float() / 127.5 - 1
    x, held_out = x[:2000], (avg_pool2d(x[2000:], 2), x[2000:])

    def batches():
        while True:
            target = x[torch.randint(len(x), (16,))]
            yield avg_pool2d(target, 2), target

    torch.manual_seed(0)
    config = Config.from_flags(steps=200, l1_weight=100.0, lr_g=5e-3, ema_images=500, log_every=50, compile="off")
    t = Trainer(Upscaler(16), Discriminator(8), config=config)
    last = t.fit(batches(), held_out=held_out)
    source, target = held_out
    bicubic = (interpolate(source, scale_factor=2, mode="bicubic") - target).abs().mean()
    made = torch.from_numpy(t.sample(source))
    assert (made - target).abs().mean() < 0.75 * bicubic
    assert last["l1/held_out"] == pytest.approx(float((made - target).abs().mean()), rel=1e-5)
    assert t.monitor.diagnoses == []


def test_a_generator_that_ignores_its_source_has_collapsed():
    (_, target), alike = next(Pairs()), torch.full((8, 1, 8, 8), 0.6)
    rows = []
    for step in range(1, 41):
        made = target + 0.1 if step < 20 else alike
        found = statistics(target, made, torch.zeros(8, 1, 2, 2), torch.zeros(8, 1, 2, 2))
        rows.append({"step": step, **{name: float(value) for name, value in found.items()}})
    (diagnosis,) = diagnoses(rows)
    assert diagnosis.name == "mode collapse"
    assert diagnosis.since == 20
    assert "latents" not in diagnosis.sentence()


def test_the_auroc_is_of_the_mean_of_an_images_logits():
    real, fake = torch.tensor([[3.0, -1.0], [0.0, 0.0]]), torch.tensor([[5.0, -5.0], [9.0, 9.0]])
    shaped = (logits.view(2, 1, 1, 2) for logits in (real, fake))
    assert statistics(torch.rand(2, 4), torch.rand(2, 4), *shaped)["auroc/real_fake"] == 3 / 8  # 1 > 0, 0 = 0, both < 9


def test_sample_grids_show_sources_generated_images_and_targets(tmp_path):
    t = trainer(of_images, tmp_path / "run", steps=4)
    source, target = next(Pairs())
    t.fit(Pairs(), held_out=(source[:3], target[:3]))
    folder = tmp_path / "run" / "samples"
    assert {p.name for p in folder.iterdir()} == {
        "fixed-00000004.png", "fresh-00000004.png", "real.png"
    }  # fmt: skip
    sheet = np.asarray(Image.open(folder / "fixed-00000004.png"))[..., 0].astype(int)
    size = 8 * 8 + 2  # images of 8 pixels are drawn 8 times as large, with a margin
    assert sheet.shape == (3 * size + 2, 3 * size + 2)
    made = t.sample(source[:3])
    for row, images in enumerate((interpolate(source[:3], size=(8, 8)).numpy(), made, target[:3].numpy())):
        for column, image in enumerate(images):
            top, left = row * size + 2, column * size + 2
            tile = sheet[top : top + 64 : 8, left : left + 64 : 8]
            assert np.abs(tile - np.clip((image[0] + 1) * 127.5, 0, 255)).max() <= 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["source_channels"] == 1
    page = write_report(tmp_path / "run").read_text()
    assert "Held-out pairs" in page
    assert "Distance to targets" in page
    assert "latent codes" not in page


def test_rows_of_sources_with_other_channels():
    gray, color, planes = torch.zeros(2, 1, 2, 2), torch.ones(2, 3, 4, 4), torch.zeros(2, 12, 4, 4)
    rows = sample_grids.in_rows(gray, color, color)
    assert rows.shape == (6, 3, 4, 4)
    assert (rows[:2] == 0).all()
    assert (sample_grids.in_rows(planes, color, color) == 1).all()
    assert sample_grids.in_rows(color, gray, gray).shape == (6, 3, 2, 2)


def test_sources_are_left_out_where_targets_are_no_pictures():
    assert sample_grids.in_rows(torch.rand(2, 3, 4, 4), torch.rand(2, 2, 8, 8), torch.rand(2, 2, 8, 8)).shape == (
        4,
        2,
        8,
        8,
    )


class Viewing(Upscaler):
    """Flattens its source as much public code does, which channels_last forbids."""

    def __init__(self):
        super().__init__()
        self.source_channels, self.linear = 2, nn.Linear(32, 64)

    def forward(self, source):
        return self.linear(source.view(len(source), -1)).unflatten(1, (1, 8, 8))


def test_sources_that_cannot_be_in_channels_last_stay_as_they_are():
    t = Trainer(Viewing(), of_images(), config=Config.from_flags(**SMALL, steps=2))
    t.fit(iter(lambda: (torch.rand(8, 2, 4, 4), torch.rand(8, 1, 8, 8)), None))
    assert t.state.batch["source"].is_contiguous()


def test_sample_grids_and_measures_restore_the_random_numbers(tmp_path):
    """A generator that is random in its average too, as one with noise in every layer is."""
    noisy = Upscaler()
    noisy.register_forward_hook(lambda module, args, made: made + torch.randn_like(made))
    t = Trainer(noisy, Discriminator(), config=Config.from_flags(**SMALL, steps=1, l1_weight=1.0), out=tmp_path)
    t.fit(Pairs(), held_out=next(Pairs()))
    before = torch.get_rng_state()
    samples.save_all(t.state, t.state.run / "samples")
    t.monitor.measure()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_that_is_not_finite_may_be_the_sources():
    t, (source, target) = trainer(), next(Pairs())
    steps, batch = TaskSteps(t.task), {"source": source, "target": target}
    assert first_bad_layer(steps, batch, {}) == ""
    source[0, 0, 0, 0] = torch.nan
    assert first_bad_layer(steps, batch, {}).startswith("the batch's 'source' (1 of 128")


class Labeled(Upscaler):
    classes = 3


class Auxiliary(Discriminator):
    auxiliary = True


class Colored(Discriminator):
    source_channels = 3


@pytest.mark.parametrize(
    ("generator", "discriminator", "options", "message"),
    [
        (Upscaler, Colored, {}, "source_channels: expected the generator's 1 in the discriminator too, .*, got 3"),
        (Upscaler, Discriminator, {"grow_images": 10}, "grow_images: only generators of latents grow"),
        (Labeled, Discriminator, {}, "classes: pairs of sources and targets have no labels; leave"),
        (Upscaler, Auxiliary, {}, "classes: pairs .* leave `classes` and `auxiliary` out"),
        (Upscaler, Discriminator, {"pack": 2}, "pack: .* sees the source classifies it with one image, .*; leave it"),
        (Upscaler, Discriminator, {"augment": "color"}, "augment: it would change the image and not the .*; leave it"),
        (Upscaler, Discriminator, {"consistency_fake": 1.0}, "consistency_fake: it would .* of images alone"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_pairs_are_errors(generator, discriminator, options, message):
    with pytest.raises(UsageError, match=message):
        Trainer(generator(), discriminator(), config=Config.from_flags(**options))


def test_latents_and_sources_exclude_each_other():
    networks = models.build("mlp", resolution=28, channels=1, latent=8, width=4)
    with pytest.raises(
        UsageError, match=r"l1_weight: .* images made of latents have none; give a generator of source images"
    ):
        Trainer(*networks, config=Config.from_flags(l1_weight=1.0))
    with pytest.raises(
        UsageError, match=r"source_channels: expected the generator's 0 in the discriminator too, .*, got 1"
    ):
        Trainer(networks[0], Discriminator())
    with pytest.raises(UsageError, match="latent_shape: a generator with source_channels takes sources"):
        Trainer(Upscaler(), Discriminator(), latent_shape=(8,))
    with pytest.raises(UsageError, match="classifier: it is for generation from latents, got Paired"):
        trainer().fit(Pairs(), classifier=of_images())
    with pytest.raises(UsageError, match="reference: it is for generation from latents, got Paired"):
        trainer().fit(Pairs(), reference=np.zeros((4, 1, 8, 8), np.uint8))


@pytest.mark.parametrize(
    ("batch", "came"),
    [
        (torch.zeros(8, 1, 8, 8), r"float32 \[8, 1, 8, 8\] and none"),
        ((torch.zeros(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64)), r"float32 \[8, 1, 4, 4\] and int64 \[8\]"),
        ((torch.zeros(8, 3, 4, 4), torch.zeros(8, 1, 8, 8)), r"float32 \[8, 3, 4, 4\] and float32 \[8, 1, 8, 8\]"),
        ((torch.zeros(7, 1, 4, 4), torch.zeros(8, 1, 8, 8)), r"float32 \[7, 1, 4, 4\] and float32 \[8, 1, 8, 8\]"),
    ],
)
def test_batches_that_are_no_pairs_are_errors(batch, came):
    message = rf"expected pairs of sources, float \[N, 1, H, W\], and targets, .*source_channels is 1, got {came}"
    with pytest.raises(UsageError, match=f"batches: {message}"):
        trainer(steps=1).fit(iter([batch]))
    with pytest.raises(UsageError, match=f"held_out: {message}"):
        trainer(steps=1).fit(Pairs(), held_out=batch)


def test_held_out_pairs_have_the_shapes_of_the_batches():
    message = r"held_out: expected source like the batches', \[M, 1, 4, 4\], got \[8, 1, 2, 2\]"
    with pytest.raises(UsageError, match=message):
        trainer(steps=1).fit(Pairs(), held_out=(torch.zeros(8, 1, 2, 2), torch.zeros(8, 1, 8, 8)))
    batch = {"source": torch.zeros(8, 1, 4, 4), "target": torch.zeros(8, 1, 6, 6)}
    with pytest.raises(UsageError, match=r"generator: expected images like the real ones \[8, 1, 6, 6\]"):
        TaskSteps(trainer(steps=1).task).discriminator(batch, {})


@pytest.mark.parametrize("weight", [2.0, 0.0])
def test_the_perceptual_term_written_out(weight):
    t = trainer(l1_weight=3.0, task="paired", task_options={"perceptual": "random", "perceptual_weight": weight})
    source, target = next(Pairs())
    result, gradients = TaskSteps(t.task).generator({"source": source, "target": target}, {"lazy": True})
    made, loss = t.generator(source), perceptual_loss("random")
    distance = loss(made, target)
    total = softplus(-t.discriminator(made, source)).mean() + 3 * (target - made).abs().mean() + weight * distance
    assert ("perceptual/batch" in result.log) == (weight > 0)
    torch.testing.assert_close(gradients, torch.autograd.grad(total, t.generator.parameters()), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.value, total.detach())
    assert not any("perceptual" in name for name in t.state.task.tensors())


def test_measures_of_held_out_pairs():
    """PSNR, SSIM and perceptual distance of the averaged generator, on pixels of 8 bits, in batches of any size."""
    t = trainer(steps=2, log_every=2, task="paired", task_options={"perceptual": "random", "perceptual_weight": 0.0})
    torch.manual_seed(1)
    targets = torch.rand(11, 1, 16, 16) * 2 - 1
    held_out = avg_pool2d(targets, 2), targets
    batches = iter([(avg_pool2d(x, 2), x) for x in (torch.rand(2, 8, 1, 16, 16) * 2 - 1)] * 2)
    t.fit(batches, held_out=held_out)
    found = t.task.with_generator(t.ema.module.eval()).measures(t.state.batch, t.state.held_out, 2)
    with torch.no_grad():
        made = t.ema.module(held_out[0])
        perceptual = perceptual_loss("random")
        parts = [(len(y), float(perceptual(x, y))) for x, y in zip(made.split(8), targets.split(8), strict=True)]
    pixels = [((x.double() + 1) * 127.5).clamp(0, 255).round().numpy() for x in (made, targets)]
    decibels = [10 * np.log10(255**2 / ((x - y) ** 2).mean()) for x, y in zip(*pixels, strict=True)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    similar = [structural_similarity(x[0], y[0], **options) for x, y in zip(*pixels, strict=True)]
    assert found["psnr/held_out"].item() == pytest.approx(np.mean(decibels), rel=1e-6)
    assert found["ssim/held_out"].item() == pytest.approx(np.mean(similar), rel=1e-6)
    assert found["perceptual/held_out"].item() == pytest.approx(sum(n * v for n, v in parts) / 11, rel=1e-4)
    pairs = dict(zip(("source", "target"), next(Pairs()), strict=True))
    small = trainer().task.measures(pairs, pairs, 1)
    assert "psnr/held_out" in small
    assert not {"ssim/held_out", "perceptual/held_out"} & small.keys()


class Between(Upscaler):
    """Images in [0, 1], which is known from the first batch alone."""

    def forward(self, source):
        return super().forward(source).sigmoid()


def test_the_range_of_the_perceptual_loss_is_that_of_the_images():
    torch.manual_seed(0)
    options = SMALL | {"steps": 1} | PERCEPTUAL
    t = Trainer(Between(), Discriminator(), config=Config.from_flags(**options))
    t.fit(iter([[(image + 1) / 2 for image in next(Pairs())]]))
    assert t.task.perceptual.range == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perceptual": "vgg"}, "perceptual: expected efficientnet, mobilenet, random, or a file .* got 'vgg'"),
        ({"perceptual": "random", "perceptual_weight": -1.0}, "perceptual_weight: expected a number >= 0, got -1.0"),
    ],
)
def test_perceptual_options_that_do_not_exist(options, message):
    with pytest.raises(UsageError, match=message):
        trainer(task="paired", task_options=options)
