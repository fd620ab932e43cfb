"""Super-resolution: both losses written out, sources made of targets, the steps without the discriminator."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fastgan import Config, Trainer, models
from fastgan._util.random import Random
from fastgan.cli import run as command
from fastgan.degradation import downscale_bicubic, sharpen
from fastgan.engine import CompiledStep
from fastgan.errors import UsageError
from fastgan.losses import perceptual_loss
from fastgan.models.esrgan import RRDBNet, UNetDiscriminator
from fastgan.testing.batches import Resumable
from fastgan.train.step import TaskSteps
from fastgan.upscale import pretrained

SMALL = {"batch": 4, "log_every": 1, "sample_every": 4, "checkpoint_every": 2, "compile": "off", "l1_weight": 0.7}
OPTIONS = {"crop": 32, "perceptual": "random", "perceptual_weight": 0.3, "adversarial_weight": 0.2}


class Pictures(Resumable):
    """Smooth targets [4, 3, 72, 80] in [-1, 1]."""

    def batch(self, source):
        return {
            "target": F.interpolate(torch.rand(4, 3, 9, 10, generator=source) * 2 - 1, scale_factor=8, mode="bilinear")
        }


class Pairs(Resumable):
    """Targets with sources of their own, which are not a degradation of them."""

    def batch(self, source):
        target = next(Pictures())["target"]
        return F.avg_pool2d(target, 2) * 0.5, target


def trainer(loss="non-saturating", out=None, task=None, family="esrgan", discriminator="unet", **flags):
    torch.manual_seed(0)
    sizes = {"discriminator": discriminator} | ({"growth": 4} if family == "esrgan" else {})
    networks = models.build(family, resolution=32, channels=3, latent=1, width=8, scale=2, blocks=1, **sizes)
    config = Config.from_flags(task="super-resolution", task_options=OPTIONS | (task or {}), **SMALL | flags)
    return Trainer(*networks, loss, config, out=out)


def transformed(t, batch=None):
    return t.task.transform(t.task.collate(batch or next(Pictures())), t.state.random)


def weights(t):
    return torch.cat([v.flatten().float() for n in t.state.networks.values() for v in n.state_dict().values()])


def of_logits(loss, real, fake):
    """The losses of discriminator and generator."""
    if loss == "non-saturating":
        return F.softplus(-real).mean() + F.softplus(fake).mean(), F.softplus(-fake).mean()

    def cross_entropy(logits, label):
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    real, fake = real - fake.mean(), fake - real.mean()
    d = (cross_entropy(real, 1.0) + cross_entropy(fake, 0.0)) / 2
    return d, (cross_entropy(real, 0.0) + cross_entropy(fake, 1.0)) / 2


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic-average"])
@pytest.mark.parametrize("sharpened", [False, True])
def test_both_losses_written_out(loss, sharpened):
    t = trainer(loss, task={"sharpen": sharpened})
    batch = transformed(t)
    source, target = batch["source"], batch["target"]
    assert (source.shape, target.shape) == ((4, 3, 16, 16), (4, 3, 32, 32))
    # The same networks out of plain PyTorch, with the same state: spectral norms move on with every call.
    generator, plain = RRDBNet(2, 3, 8, 4, 1), UNetDiscriminator(3, 8)
    generator.load_state_dict(t.generator.state_dict())
    noise = t.state.draw("discriminator", batch)

    def logits_of(*images):
        plain.load_state_dict(t.discriminator.state_dict())
        plain.train()
        return plain(torch.cat(images)).chunk(len(images))

    t.task.joint = True
    expected, _ = of_logits(loss, *logits_of(target, generator(source).detach()))
    expected = torch.autograd.grad(expected, plain.parameters())
    _, gradients = TaskSteps(t.task).discriminator(batch, noise)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)

    made, compared = generator(source), sharpen(target) if sharpened else target
    assert sharpened == (not torch.equal(compared, target))
    if loss == "non-saturating":
        fake, real = logits_of(made)[0], torch.zeros(1)
    else:  # two calls, of which the second has a further iteration of each spectral norm
        plain.load_state_dict(t.discriminator.state_dict())
        fake, real = plain(made), plain(target)
    _, adversarial = of_logits(loss, real, fake)
    perceptual = perceptual_loss("random", range=(0, 1))(made, compared)
    value = 0.7 * (made - compared).abs().mean() + 0.3 * perceptual + 0.2 * adversarial
    result, gradients = TaskSteps(t.task).generator(batch, t.state.draw("generator", batch))
    torch.testing.assert_close(result.value, value.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(value, list(generator.parameters())), rtol=1e-3, atol=1e-6
    )


def test_sources_are_made_of_the_targets():
    """Of more than the crop, so that its border is like its inside; each image at its own place."""
    t = trainer()
    target = next(Pictures())["target"]
    batch = transformed(t)
    assert torch.equal(batch["source"] * 255, (batch["source"] * 255).round())
    inside = downscale_bicubic(batch["target"], 2)
    error = (batch["source"] - inside).abs()
    assert error[..., 2:-2, 2:-2].max() < 1 / 255  # the border misses what is beyond the crop
    assert error.max() > 1 / 255
    again = transformed(t)
    assert not torch.equal(again["target"], batch["target"])
    # Held-out pictures are cut and degraded in the same way each time, in the center.
    for kind in ("bicubic", "second-order"):
        t = trainer(task={"degradation": kind})
        one, other = (t.task.transform(t.task.collate({"target": target}), None) for _ in range(2))
        assert torch.equal(one["source"], other["source"])
        torch.testing.assert_close(one["target"], (target[:, :, 20:52, 24:56] + 1) / 2)


def test_sources_of_ones_own():
    t = trainer()
    source, target = next(Pairs())
    batch = t.task.transform(t.task.collate((source, target)), None)
    torch.testing.assert_close(batch["source"], (source[:, :, 10:26, 12:28] + 1) / 2)
    torch.testing.assert_close(batch["target"], (target[:, :, 20:52, 24:56] + 1) / 2)


def test_steps_without_the_discriminator(tmp_path):
    """In the first ones it has no update, and its layers do not run; L1 is all of the generator's loss."""
    t, calls = trainer(task={"warm_up": 2}, steps=4, out=tmp_path / "run"), []
    before = {name: value.clone() for name, value in t.discriminator.state_dict().items()}
    rows = []

    def look(facts):
        rows.append(dict(facts.metrics))
        if facts.step == 2:
            calls.append({n: torch.equal(v, before[n]) for n, v in t.discriminator.state_dict().items()})

    t.fit(Pictures(), callbacks=[look])
    assert calls
    assert all(calls[0].values())
    assert ["loss/discriminator" in row for row in rows] == [False, False, True, True]
    assert ["perceptual/batch" in row for row in rows] == [False, False, True, True]
    assert rows[0]["loss/generator"] == pytest.approx(0.7 * rows[0]["l1/batch"])
    assert not torch.equal(t.discriminator.conv0.weight, before["conv0.weight"])
    # Its optimizer begins with its first update, so that the correction of its first moments is right.
    steps = {
        name: {int(state["step"]) for state in update.optimizer.state.values()}
        for name, update in t.state.updates.items()
    }
    assert steps == {"generator": {4}, "discriminator": {2}}


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumes_bit_for_bit(tmp_path, stop):
    """Before, at and after the first step with the discriminator; with a pool and random degradations."""
    options = {"task": {"warm_up": 2, "pool": 8, "degradation": "second-order"}, "checkpoint_every": 1}
    whole = trainer(steps=4, out=tmp_path / "whole", **options)
    whole.fit(Pictures())
    trainer(steps=stop, out=tmp_path / "run", **options).fit(Pictures())
    resumed = trainer(steps=4, out=tmp_path / "run", **options)
    resumed.fit(Pictures(), resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    pools = [{n: v for n, v in t.task.tensors().items() if n.startswith("pool.")} for t in (whole, resumed)]
    assert pools[0].keys() == {"pool.source", "pool.target", "pool.filled"}
    assert all(torch.equal(value, pools[1][name]) for name, value in pools[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["esrgan", "compact"])
def test_the_whole_step_is_one_graph(family):
    """Generator, discriminator with its spectral norms and the perceptual network; as eager steps compute it."""
    options = {"task": {"warm_up": 1}, "family": family, "steps": 3}
    compiled, eager = (trainer("relativistic-average", compile=mode, **options) for mode in ("on", "off"))
    last, wanted = compiled.fit(Pictures()), eager.fit(Pictures())
    assert isinstance(compiled.steps.generator, CompiledStep)
    assert compiled.steps.discriminator.how == ["Dynamo"]
    assert compiled.steps.generator.how == ["Dynamo", "Dynamo"]  # without the discriminator, and with it
    assert last["loss/generator"] == pytest.approx(wanted["loss/generator"], rel=1e-4)
    assert last["perceptual/batch"] == pytest.approx(wanted["perceptual/batch"], rel=1e-4)
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-3, atol=5e-4)


def test_held_out_figures_and_grids():
    t = trainer(steps=1)
    figures = t.fit(Pictures(), held_out=next(Pictures()))
    expected = {f"{name}/held_out" for name in ("l1", "psnr", "ssim", "perceptual")} | {"auroc/train_held_out"}
    assert expected <= figures.keys()
    grids = t.task.samples(t.state.batch, t.state.held_out, 1)
    assert {name: grid.images.shape for name, grid in grids.items()} == dict.fromkeys(
        ("fixed", "fresh"), (12, 3, 32, 32)
    )
    # The first row: sources, bicubically enlarged.
    low = F.interpolate(t.state.held_out["source"], scale_factor=2.0, mode="bicubic") * 2 - 1
    torch.testing.assert_close(grids["fixed"].images[:4], low)


def test_penalties():
    """R1 of the U-Net, second derivatives of its layers and bilinear upsampling included; refused beside batch norm."""
    t = trainer(r1_weight=2.0)
    batch = transformed(t)
    plain = UNetDiscriminator(3, 8)
    plain.load_state_dict(t.discriminator.state_dict())
    result, gradients = TaskSteps(t.task).discriminator(batch, t.state.draw("discriminator", batch))
    # Each pass, of real images, of fakes and of the penalty, moves the spectral norms.
    real = batch["target"].clone().requires_grad_()
    with torch.no_grad():
        fake = t.generator(batch["source"])
    loss = F.softplus(-plain(batch["target"])).mean() + F.softplus(plain(fake)).mean()
    (slope,) = torch.autograd.grad(plain(real).sum(), real, create_graph=True)
    penalty = slope.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(result.log["penalty/r1"], penalty.detach(), rtol=1e-3, atol=1e-9)
    expected = torch.autograd.grad(loss + penalty, plain.parameters())
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(UsageError, match=r"r1: bn0_1 \(BatchNorm2d\) couples the samples of a batch, .*unet"):
        trainer(discriminator="vgg", r1_weight=1.0)


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ({"crop": 30}, {}, r"crop: expected a multiple of 4 \(scale 2\), got 30"),
        ({"warm_up": -1}, {}, "warm_up: expected a number >= 0, got -1"),
        ({"adversarial_weight": -0.1}, {}, "adversarial_weight: expected a number >= 0, got -0.1"),
        ({"warm_up": 5}, {"l1_weight": 0.0}, "warm_up: its steps have the L1 loss alone, whose weight is 0; give"),
        ({"degradation": "third-order"}, {}, "degradation: expected bicubic, .*, got 'third-order'"),
        ({"perceptual": "vgg.pth"}, {}, "perceptual: expected efficientnet, .*, got 'vgg.pth', which is no file"),
        ({"pool": -1}, {}, "pool: expected a number of pairs >= 0, got -1"),
        ({}, {"unroll": 1}, "unroll: super-resolution does not have it; leave it out"),
        ({}, {"pack": 2}, "pack: super-resolution does not have it; leave it out"),
    ],
)
def test_bad_options(task, flags, message):
    with pytest.raises(UsageError, match=message):
        trainer(task=task, **flags)


def test_bad_networks_and_batches():
    class Same(torch.nn.Conv2d):
        source_channels = 3

    config = Config.from_flags(task="super-resolution", task_options=OPTIONS)
    with pytest.raises(UsageError, match="generator: expected one that enlarges images by its attribute `scale`"):
        Trainer(Same(3, 3, 1), UNetDiscriminator(3, 4), config=config)
    t, (source, target) = trainer(), next(Pairs())
    for batch, message in (
        ((source, target[..., :40]), r"batches: expected targets 2 times as large as their sources, .*float32"),
        ({"target": target[..., :24]}, r"crop: expected at most the size of the images, float32 .*, got 32"),
        ({"real": target}, "batches: expected an entry 'target', got 'real'"),
        ((source[:, :1], target), r"batches: expected pairs of sources, float \[N, 3, H, W\], and targets"),
    ):
        with pytest.raises(UsageError, match=message):
            t.task.collate(batch)


def test_draws_come_from_the_runs_own_random_numbers():
    """Two ranks see what one rank of twice the batch sees."""
    t = trainer(task={"degradation": "second-order"})
    batch = t.task.collate(next(Pictures()))
    whole = t.task.transform(batch, Random(3, torch.device("cpu")))
    for rank in (0, 1):
        part = {name: value[2 * rank : 2 * rank + 2] for name, value in batch.items()}
        found = t.task.transform(part, Random(3, torch.device("cpu"), rank, 2))
        for name, value in found.items():
            torch.testing.assert_close(value, whole[name][2 * rank : 2 * rank + 2])


def test_from_a_folder_to_an_enlarged_picture(tmp_path, monkeypatch, capsys):
    """With the weights of a pretrained network by its name, of pairs in two folders, to `upscale` with the run."""
    network = models.esrgan.SRVGGNetCompact(2, 3, 4, 1, 4)
    models.save(network, tmp_path / "small.pth")
    monkeypatch.setattr(pretrained, "fetch", lambda name: tmp_path / "small.pth")
    for i, target in enumerate(next(Pictures())["target"]):
        pixels = ((target + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        for folder, image in (("high", pixels), ("low", pixels[::2, ::2])):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{i}.png")
    run, out = tmp_path / "run", tmp_path / "large.png"
    words = [
        "train", "compact", "--data", tmp_path / "high", "--data.low", tmp_path / "low", "--resolution", 48,
        "--out", run, "--model.scale", 2, "--model.shuffle", 4, "--model.blocks", 1, "--width", 4, "--task.crop", 32,
        "--task.pool", 0, "--task.perceptual", "none", "--task.warm-up", 0, "--steps", 1, "--batch", 2, "--lr-g", 1e-9,
        "--device", "cpu", "--compile", "off", "--init-from", "realesr-animevideov3-x2",
    ]  # fmt: skip
    assert command(list(map(str, words))) == 0
    source = tmp_path / "low" / "0.png"
    assert command(["upscale", str(source), str(out), "--model", str(run), "--backend", "torch"]) == 0
    low = torch.from_numpy(np.asarray(Image.open(source)).copy()).permute(2, 0, 1)[None] / 255
    expected = (network(low).clamp(0, 1) * 255).round()[0].permute(1, 2, 0)
    found = torch.from_numpy(np.asarray(Image.open(out)).copy())
    assert (found - expected).abs().max() <= 1
    # A scale that the pairs do not have, and the sizes of another network: one sentence, before the first step.
    for changed, sentence in (
        (("--model.scale", 4), "fastgan: batches: expected targets 4 times as large as their sources"),
        (("--model.blocks", 2), "fastgan: init_from: .* holds another generator: .*is built with --model.blocks 1"),
    ):
        capsys.readouterr()
        assert command(list(map(str, [*words, "--overwrite", *changed]))) == 2
        assert re.search(sentence, capsys.readouterr().err)
