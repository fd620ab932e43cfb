"""Progressive growing: the schedule of levels, real images at each level, checkpoints, and samples."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from fastgan import Config, Trainer, models
from fastgan.engine import CompiledStep
from fastgan.errors import UsageError
from fastgan.report.diagnostics import Diagnosis
from fastgan.runtime.session import Session
from fastgan.train import checkpoint
from fastgan.train.data import Batches as Stream
from fastgan.train.growth import Growth, level_at
from fastgan.train.logging import Means
from fastgan.train.networks import load_discriminator, load_generator

SMALL = {"latent": 4, "batch": 4, "grow_images": 8, "log_every": 1, "sample_every": 100, "checkpoint_every": 100,
         "compile": "off", "lr_g": 1e-2, "lr_d": 1e-2}  # fmt: skip


class Batches:
    """The same 16×16 images every time, from where a run left off; at batch `killed` it ends."""

    def __init__(self, classes=0, killed=None, side=16):
        self.at, self.classes, self.killed, self.side = 0, classes, killed, side

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == self.killed:
            raise OSError("killed")
        self.at += 1
        images = torch.rand(4, 1, self.side, self.side, generator=torch.Generator().manual_seed(self.at)) * 2 - 1
        return (images, torch.arange(4) % self.classes) if self.classes else images

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def made(steps, out=None, about=None, networks=None, **options):
    """A progan of 16×16, or other networks, in a Trainer."""
    config = Config.from_flags(**SMALL | {"steps": steps, "model": "progan", "width": 4} | options)
    torch.manual_seed(0)
    model = config.model
    labels = {} if model.condition == "none" else {"classes": model.classes, "condition": model.condition}
    channels = 1, config.regularization.pack
    built = [models.build("progan", resolution=16, channels=c, latent=4, width=4, **labels) for c in channels]
    generator, discriminator = networks or (built[0][0], built[1][1])
    return Trainer(generator, discriminator, config.loss.adversarial, config, out=out, about=about)


class Own(nn.Module):
    """Networks of a user's own, from 7×7 on. The generator fades its newest level in; the discriminator does not."""

    latent, stages = 4, 3

    def __init__(self, classifies=False, channels=1):
        super().__init__()
        self.classifies, self.stage, self.fading, self.channels = classifies, 2, False, channels
        sizes = (channels * side**2 for side in (7, 14, 28))
        self.layers = nn.ModuleList(nn.Linear(*((size, 1) if classifies else (4, size))) for size in sizes)
        self.register_buffer("alpha", torch.ones(()))

    def grow(self, stage, alpha):
        self.stage, self.fading = stage, alpha < 1
        self.alpha.fill_(alpha)

    @property
    def image_shape(self):
        return (self.channels, 7 << self.stage, 7 << self.stage)

    def forward(self, x):
        now = self.layers[self.stage](x.flatten(1))
        if self.classifies:
            return now
        now = now.view(-1, *self.image_shape)
        if not self.fading:
            return now
        before = self.layers[self.stage - 1](x).view(-1, self.channels, now.shape[2] // 2, now.shape[3] // 2)
        return torch.lerp(F.interpolate(before, scale_factor=2), now, self.alpha)


def own_networks():
    torch.manual_seed(0)
    return Own(), Own(classifies=True)


def recorded(trainer):
    """A list that gets a line for each iteration: stage and alpha of the networks, and the real images' side."""
    lines, before = [], trainer.iterate

    def iterate(*args):
        before(*args)
        networks = trainer.generator, trainer.ema.module, trainer.discriminator
        stages, alphas = {network.stage for network in networks}, {network.alpha for network in networks}
        lines.append((stages.pop(), alphas.pop(), trainer.state.batch["real"].shape[-1]))
        assert not stages | alphas, "the networks are at different levels"

    trainer.iterate = iterate
    return lines


def everything(trainer):
    """All that a checkpoint must restore, as bytes."""
    found = {}
    for part, network in (("g", trainer.generator), ("d", trainer.discriminator), ("ema", trainer.ema.module)):
        found |= {f"{part}.{name}": value for name, value in network.state_dict().items()}
    for name, update in trainer.state.updates.items():
        found |= checkpoint.optimizer_tensors(update.optimizer, name)
    return {name: value.numpy().tobytes() for name, value in found.items()}


# --- schedule and real images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "level"),
    [
        (0, (0, 1)), (9, (0, 1)),
        (10, (1, 0)), (15, (1, 0.5)), (19, (1, 0.9)), (20, (1, 1)), (29, (1, 1)),
        (30, (2, 0)), (37, (2, 0.7)), (40, (2, 1)), (50, (2, 1)), (1000, (2, 1)),
    ],
)  # fmt: skip
def test_the_papers_schedule(images, level):
    assert level_at(images, 10, 3) == level


def test_all_networks_grow_as_real_images_come():
    trainer = made(11, ema_images=100)
    lines = recorded(trainer)
    trainer.fit(Batches())
    assert lines == [
        (0, 1, 4), (0, 1, 4), (1, 0, 8), (1, 0.5, 8), (1, 1, 8), (1, 1, 8), (2, 0, 16), (2, 0.5, 16),
        (2, 1, 16), (2, 1, 16), (2, 1, 16),
    ]  # fmt: skip


def test_every_real_image_counts():
    trainer = made(5, d_steps=2, accumulate=2, grow_images=32)  # 16 in an iteration
    lines = recorded(trainer)
    trainer.fit(Batches())
    assert [line[:2] for line in lines] == [(0, 1), (0, 1), (1, 0), (1, 0.5), (1, 1)]


def test_real_images_fade_in_as_in_the_authors_code():
    """Means of 2×2, tiled, and a lerp between them and the images: once more, in numpy."""
    images = torch.rand(3, 1, 16, 16)
    growth = Growth(100, *models.build("progan", resolution=16, channels=1, latent=4, width=4))
    growth.advance(125)  # 8×8, faded in by a quarter
    x = images.numpy().reshape(3, 1, 8, 2, 8, 2).mean((3, 5))
    means = np.tile(x.reshape(3, 1, 4, 2, 4, 2).mean((3, 5), keepdims=True), (1, 1, 1, 2, 1, 2)).reshape(3, 1, 8, 8)
    np.testing.assert_allclose(growth.averaged(images), 0.75 * means + 0.25 * x, atol=1e-6)
    growth.advance(200)
    np.testing.assert_allclose(growth.averaged(images), x, atol=1e-6)
    growth.advance(10_000)
    assert growth.averaged(images) is images
    assert Growth(0, nn.Flatten()).averaged(images) is images


def test_the_discriminator_sees_faded_images():
    trainer = made(4)
    trainer.fit(batches := Batches())
    batches.at -= 1
    last = F.avg_pool2d(next(batches), 2)
    means = F.interpolate(F.avg_pool2d(last, 2), scale_factor=2)
    torch.testing.assert_close(trainer.state.batch["real"], (last + means) / 2)


# --- which weights are trained --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"historical_averaging": 0.1}])
def test_levels_are_trained_once_they_exist(options):
    trainer = made(10, **options)
    networks = trainer.generator, trainer.discriminator
    before = [{name: weight.detach().clone() for name, weight in net.named_parameters()} for net in networks]
    stream = Stream(Batches(), trainer.state)
    for phase, here in enumerate(({"0"}, {"0", "1"}, {"0", "1"}, {"0", "1", "2"})):
        for _ in range(2):
            if trainer.state.growth.advance(trainer.state.images):
                trainer.prepare(stream)
            trainer.iterate(stream, Means())
        for net, update in zip(networks, trainer.state.updates.values(), strict=True):
            known = {name for name, weight in net.named_parameters() if weight in update.optimizer.state}
            layers = {name.split(".")[1] for name in known if name.startswith(("to_image", "from_image"))}
            assert layers == here, phase
    trainer.fit(Batches())
    for net, old in zip(networks, before, strict=True):
        for name, weight in net.named_parameters():
            assert weight.isfinite().all(), name
            assert not torch.equal(weight, old[name]), name
    for name, weight in trainer.ema.module.named_parameters():
        assert not torch.equal(weight, before[0][name]), name


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "wgan-gp", "d_steps": 1, "accumulate": 2},
        {"condition": "auxiliary", "classes": 3, "precision": "bf16", "r1_weight": 1.0, "penalty_interval": 2},
        {"condition": "concat", "classes": 3, "feature_matching": 1.0, "optimizer": "rmsprop"},
        {"pack": 2, "augment": "color+translation+cutout", "ada_target": 0.6, "instance_noise": 0.1},
        {"unroll": 1, "held_out": 4},
        {"consistency": 1.0, "consistency_fake": 1.0, "clip": 1.0},
    ],
    ids=lambda options: "-".join(options),
)
def test_growing_with_other_options(options):
    trainer = made(10, **options)
    lines = recorded(trainer)
    batches = Batches(trainer.task.classes)
    last = trainer.fit(batches, held_out=next(batches) if "held_out" in options else None)
    assert all(math.isfinite(value) for value in last.values())
    assert last["skipped/generator"] == last["skipped/discriminator"] == 0
    assert lines[-1] == (2, 1, 16)
    assert ("auroc/train_held_out" in last) == ("held_out" in options)


# --- compiled -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capture", "backend"),
    [("Dynamo", "eager"), ("make_fx", "eager"), pytest.param("Dynamo", "inductor", marks=pytest.mark.slow)],
)
def test_compiled_steps_serve_all_alphas_of_their_level(capture, backend, monkeypatch):
    """A level is captured once for all its alphas, and the next level is captured anew."""
    torch._dynamo.reset()
    monkeypatch.setattr(
        CompiledStep, "_inductor", lambda self, f: torch.compile(f, fullgraph=True, dynamic=False, backend=backend)
    )
    if capture == "make_fx":
        monkeypatch.setattr(CompiledStep, "_by_dynamo", lambda self: 1 / 0)
    found, steps = {}, []
    for asked in ("off", "on"):
        torch._dynamo.utils.counters.clear()
        trainer = made(6, networks=own_networks(), grow_images=12, compile=asked)
        trainer.state.images = 12  # the first level is over
        before = trainer.iterate
        trainer.iterate = lambda *args, t=trainer, before=before: (before(*args), steps.append(t.steps))
        trainer.fit(Batches(side=28))
        found[asked] = torch.cat([w.flatten() for w in trainer.generator.parameters()])
    assert all(step.discriminator.how[0].startswith(capture) for step in steps[6:])
    assert [len(set(map(id, part))) for part in (steps[6:9], steps[9:], steps[6:])] == [1, 1, 2]
    assert (
        torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4
    )  # of two networks, while fading in and afterwards
    torch.testing.assert_close(found["on"], found["off"])


# --- checkpoints ----------------------------------------------------------------------------------------------------


LABELS = {"condition": "auxiliary", "classes": 3}


@pytest.fixture(scope="module")
def whole():
    """A run that was never killed."""
    trainer = made(11, **LABELS)
    trainer.fit(Batches(3))
    return trainer


@pytest.mark.parametrize(
    ("saved", "killed", "level"),
    [(3, 3, (1, 0.5)), (7, 10, (2, 0.5))],
    ids=["in a fade", "a level later"],
)
def test_killed_and_resumed_equals_never_killed(whole, tmp_path, saved, killed, level):
    with pytest.raises(OSError, match="killed"):
        made(11, tmp_path / "run", **LABELS, checkpoint_every=saved).fit(Batches(3, killed))
    assert checkpoint.steps_in(tmp_path / "run" / "checkpoints") == [saved]
    resumed = made(11, tmp_path / "run", **LABELS)
    lines = recorded(resumed)
    resumed.fit(Batches(3), resume=True)
    assert lines[0][:2] == level
    kept, again = everything(whole), everything(resumed)
    assert kept.keys() == again.keys()
    assert [name for name in kept if kept[name] != again[name]] == []
    levels = json.loads((tmp_path / "run" / "config.json").read_text())["levels"]
    assert list(levels) == ["4×4", "8×8, fading in", "8×8", "16×16, fading in", "16×16"]
    assert all(decided["compiled"] == "off" and decided["apart"] for decided in levels.values())


def test_rollback_to_a_smaller_level(tmp_path, monkeypatch):
    trainer = made(10, tmp_path / "run", on_collapse="rollback", checkpoint_every=3)
    lines = recorded(trainer)
    diagnosis = Diagnosis("divergence", 4, 5, "made up", ())
    monkeypatch.setattr(
        trainer.monitor,
        "diagnose",
        lambda row: diagnosis if row["step"] == 5 and not trainer.state.rollbacks else None,
    )
    trainer.fit(Batches())
    assert [line[:2] for line in lines[3:8]] == [(1, 0.5), (1, 1), (1, 0.5), (1, 1), (1, 1)]
    assert lines[-1] == (2, 1, 16)


def opened(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_sample_grids_have_one_size_at_all_levels(tmp_path, caplog):
    reference = np.random.default_rng(0).integers(0, 255, (20, 1, 16, 16), dtype=np.uint8)
    trainer = made(9, tmp_path / "run", sample_every=4)
    sides = []

    class Classifier(nn.Module):
        def forward(self, x):
            sides.append(x.shape[2:])
            return x.flatten(1)[:, :3]

    last = trainer.fit(Batches(), reference=reference, classifier=Classifier())
    assert set(sides) == {(16, 16)}
    assert last["modes/count"] >= 1
    sizes = {}
    for path in (tmp_path / "run" / "samples").glob("*-*.png"):
        sizes.setdefault(path.name.split("-")[0], set()).add(opened(path).shape)
    assert len(sizes) == 6
    assert all(len(found) == 1 for found in sizes.values()), sizes
    squares = opened(tmp_path / "run" / "samples" / "fixed-00000004.png")[2:66, 2:66, 0].reshape(8, 8, 8, 8)
    assert np.array_equal(squares, np.broadcast_to(squares[:, :1, :, :1], squares.shape))  # 8×8 pixels, as squares
    real = opened(tmp_path / "run" / "samples" / "real.png")[2:66, 2:66, 0]
    assert len(np.unique(real)) > 64  # in full
    with Image.open(tmp_path / "run" / "samples" / "fixed.webp") as moving:
        assert moving.n_frames == 3
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["growth/level"] for line in lines] == [0, 0, 0, 0.5, 1, 1, 1, 1.5, 2]
    assert "step 6: images of 16×16, fading in" in caplog.messages
    assert "grow_images" not in caplog.text


def test_loaded_networks_have_the_level_of_the_checkpoint(tmp_path):
    trainer = made(4, tmp_path / "run", about={"image_shape": [1, 16, 16]})
    trainer.fit(Batches())
    trained = load_generator(tmp_path / "run")
    z = torch.randn(3, 4)
    assert trained.generator.image_shape == (1, 8, 8)
    # The average that is trained is in channels_last, which libraries sum in another order.
    np.testing.assert_allclose(trained.generator(z), trainer.sample(z), rtol=0, atol=2e-6)
    assert (trained.generator.alpha, load_discriminator(trained).alpha) == (0.5, 0.5)


@pytest.mark.slow
def test_an_exported_generator_has_the_level_of_the_checkpoint(tmp_path, command):
    # With few features pixel norm divides by next to nothing somewhere, and shows every rounding.
    wide = models.build("progan", resolution=16, channels=1, latent=4, width=32)
    about = {"image_shape": [1, 16, 16], "dataset": {"name": "noise"}}
    trainer = made(4, tmp_path / "run", about, wide, width=32)
    trainer.fit(Batches())
    done = command("export", "run")
    assert done.returncode == 0, done.stderr
    z = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    images = Session(tmp_path / "run" / "generator.onnx")(z)
    assert images.shape == (3, 1, 8, 8)
    np.testing.assert_allclose(images, trainer.sample(torch.from_numpy(z)), atol=1e-5)


def test_a_run_that_is_too_short_to_grow_logs_a_warning(caplog):
    made(7).fit(Batches())
    message = "grow_images: the networks are fully grown after 32 real images, and the run has 28; it ends with smaller"
    assert message in caplog.text


# --- networks of one's own, and errors ------------------------------------------------------------------------------


def test_a_finished_run_keeps_its_level(tmp_path):
    """The state dict of these networks does not hold their level, and a resumed finished run takes no step."""

    for resume in (False, True):
        trainer = made(1, tmp_path, networks=(Own(), Own(classifies=True)))
        trainer.fit(Batches(side=28), resume=resume)
        assert trainer.ema.module(torch.zeros(2, 4)).shape[-1] == 7
        assert trainer.discriminator.stage == 0


class Viewing(Own):
    """Its discriminator's second level flattens by `view`, which channels_last forbids."""

    def forward(self, x):
        return super().forward(x.view(len(x), -1) if self.classifies and self.stage == 1 else x)


def test_each_level_has_its_own_memory_format():
    trainer = made(6, networks=(Viewing(channels=3), Viewing(classifies=True, channels=3)))
    seen, before = [], trainer.iterate
    trainer.iterate = lambda *args: (before(*args), seen.append(trainer.state.batch["real"].is_contiguous()))
    trainer.fit(iter(lambda: torch.rand(4, 3, 28, 28) * 2 - 1, None))
    assert seen == [False] * 2 + [True] * 4


def test_networks_of_ones_own_grow():
    trainer = made(9, networks=own_networks())
    trainer.fit(Batches(side=28))
    assert trainer.generator.image_shape == trainer.state.batch["real"].shape[1:] == (1, 28, 28)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (models.build("dcgan", resolution=16, channels=1, latent=4, width=4), "Generator has no 'stages'"),
        ((Own(), nn.Sequential(nn.Flatten(), nn.Linear(784, 1))), "Sequential has no 'grow'"),
    ],
)
def test_networks_that_cannot_grow(tmp_path, networks, message):
    with pytest.raises(UsageError, match=f"grow_images: expected networks that can grow, and {message}; use model='p"):
        made(9, tmp_path / "run", networks=networks)
    assert not (tmp_path / "run").exists()


def test_images_smaller_than_the_last_level_are_an_error():
    wanted = r"batches: the networks grow to images \[1, 16, 16\], and these are \[1, 8, 8\]; build .* resolution 8, or"
    with pytest.raises(UsageError, match=wanted):
        made(9).fit(Batches(side=8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grow_images": -1}, "grow_images: expected a number >= 0, got -1"),
        ({"grow_images": 8, "history": 64}, "history: past fakes are too small for networks that have grown"),
    ],
)
def test_options_that_exclude_each_other(options, message):
    with pytest.raises(UsageError, match=message):
        Config.from_flags(**options)
