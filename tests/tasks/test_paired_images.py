"""Paired translation of pictures: crops and flips of both images, discriminators at several scales, dropout."""

import copy

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer, models
from fastgan._util.random import Random
from fastgan.engine import CompiledStep
from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL
from fastgan.tasks import Paired, sample_grids
from fastgan.tasks.networks import Output
from fastgan.testing.batches import Resumable
from fastgan.train.step import TaskSteps

QUIET = {"compile": "off", "log_every": 2, "sample_every": 100, "checkpoint_every": 2, "l1_weight": 10.0}


def networks(family="pix2pix", resolution=32, **options):
    torch.manual_seed(0)
    return models.build(family, resolution=resolution, channels=3, latent=1, width=2, source_channels=1, **options)


def task_of(generator, discriminator, loss="least-squares", **options):
    config = Config.from_flags(task="paired", task_options=options, loss=loss, l1_weight=10.0, steps=1)
    return Trainer(generator, discriminator, loss, config).task


def pair(n=3, size=32, seed=1):
    source = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(n, channels, size, size, generator=source) * 2 - 1
        for name, channels in (("source", 1), ("target", 3))
    }


# --- crops and flips --------------------------------------------------------------------------------------------------


def numbered(n=64, size=6):
    """Images whose pixels are their own numbers, the target's three times those of the source."""
    source = torch.arange(n * size * size, dtype=torch.float32).view(n, 1, size, size)
    return {"source": source, "target": torch.cat([source, 2 * source, 3 * source], 1)}


def test_source_and_target_are_cropped_and_mirrored_alike():
    task = task_of(*networks(), crop=4, flip=True)
    batch = numbered()
    made = task.transform(batch, Random(0, torch.device("cpu")))
    assert made["source"].shape == (64, 1, 4, 4)
    assert torch.equal(made["target"], torch.cat([made["source"] * k for k in (1, 2, 3)], 1))
    places, mirrored = set(), 0
    for i, image in enumerate(made["source"]):
        left = int(image[0, 0].min()) - 36 * i
        top, left = divmod(left, 6)
        expected = batch["source"][i, :, top : top + 4, left : left + 4]
        turned = bool(image[0, 0, 0] > image[0, 0, 1])
        assert torch.equal(image, expected.flip(2) if turned else expected)
        places.add((top, left))
        mirrored += turned
    assert places == {(i, j) for i in range(3) for j in range(3)}
    assert 20 < mirrored < 44


def test_held_out_pairs_are_cropped_at_the_center():
    task = task_of(*networks(), crop=4, flip=True)
    batch = numbered(2)
    made = task.transform(batch, None)
    for name, images in batch.items():
        assert torch.equal(made[name], images[:, :, 1:5, 1:5])
    assert task_of(*networks(), flip=True).transform(batch, None) == batch


def test_crops_of_two_ranks_are_those_of_one():
    task, batch = task_of(*networks(), crop=4), numbered(8)
    whole = task.transform(batch, Random(3, torch.device("cpu")))
    for rank in range(2):
        half = {name: images[4 * rank : 4 * rank + 4] for name, images in batch.items()}
        made = task.transform(half, Random(3, torch.device("cpu"), rank, 2))
        assert torch.equal(made["target"], whole["target"][4 * rank : 4 * rank + 4])


def test_crops_that_do_not_fit():
    with pytest.raises(UsageError, match="crop: expected a number of pixels >= 0, got -1"):
        task_of(*networks(), crop=-1)
    task, random = task_of(*networks(), crop=8), Random(0, torch.device("cpu"))
    with pytest.raises(UsageError, match="crop: expected at most the side of the images, 6×6, got 8"):
        task.transform(numbered(2), random)
    with pytest.raises(UsageError, match=r"crop: expected sources and targets of one size, got \[3, 3\] and \[6, 6\]"):
        task.transform(numbered(2) | {"source": torch.zeros(2, 1, 3, 3)}, random)


def test_the_grid_shows_pairs_of_the_whole_held_out_set():
    numbers = torch.arange(40.0).view(40, 1, 1, 1)
    assert sample_grids.some(numbers).flatten().tolist() == [0, 5, 10, 15, 20, 25, 30, 35]
    assert torch.equal(sample_grids.some(numbers[:11]), numbers[:8])
    assert torch.equal(sample_grids.some(numbers[:3]), numbers[:3])


# --- several scales ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["least-squares", "hinge", "relativistic"])
def test_losses_of_several_scales_are_added_up(loss):
    generator, discriminator = networks(discriminator="multi-scale", scales=2, layers=2, norm="instance", dropout=False)
    task, batch = task_of(generator, discriminator, loss), pair()
    formula = ADVERSARIAL[loss]
    with torch.no_grad():
        made = generator(batch["source"])
    real, fake = (discriminator(images, batch["source"]) for images in (batch["target"], made))
    assert [logits.shape[2] for logits in real] == [11, 7]
    expected = sum(formula.d_loss(r, f) for r, f in zip(real, fake, strict=True))
    gradients = torch.autograd.grad(expected, list(discriminator.parameters()))
    for joint in (False, True):
        task.joint = joint
        found, found_gradients = TaskSteps(task).discriminator(batch, {})
        torch.testing.assert_close(found.value, expected.detach())
        for one, other in zip(found_gradients, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    found, _ = TaskSteps(task).generator(batch, {})
    compared = (real,) if formula.paired else ()
    value = sum(formula.g_loss(*each) for each in zip(fake, *compared, strict=True))
    expected = value + 10 * (made - batch["target"]).abs().mean()
    torch.testing.assert_close(found.value, expected.detach())


def test_penalties_at_several_scales_are_of_the_sum_of_all_logits():
    generator, discriminator = networks(discriminator="multi-scale", scales=2, layers=1, norm="instance", dropout=False)
    config = Config.from_flags(task="paired", loss="least-squares", r1_weight=2.0, steps=1)
    task, batch = Trainer(generator, discriminator, "least-squares", config).task, pair(2)
    found, _ = TaskSteps(task).discriminator(batch, {"lazy": True})
    images = batch["target"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sum(each.sum() for each in discriminator(images, batch["source"])), images)
    torch.testing.assert_close(found.log["penalty/r1"], gradient.square().sum((1, 2, 3)).mean())


@pytest.mark.parametrize("family", ["pix2pix", "pix2pixhd"])
def test_features_of_all_layers_are_matched(family):
    options = {"norm": "instance", "dropout": False} if family == "pix2pix" else {"blocks": 1}
    generator, discriminator = networks(family, **options)
    task, batch = task_of(generator, discriminator, layer_matching=5.0), pair(2)
    plain, gradients = TaskSteps(task_of(generator, discriminator)).generator(batch, {})
    made = generator(batch["source"])
    fake, real = (discriminator.features(images, batch["source"]) for images in (made, batch["target"]))
    assert len(fake) == (1 if family == "pix2pix" else 3)
    distance = sum(
        (one - other.detach()).abs().mean()
        for layers, others in zip(fake, real, strict=True)
        for one, other in zip(layers[:-1], others[:-1], strict=True)
    ) / len(fake)
    of_distance = torch.autograd.grad(distance, list(generator.parameters()))
    found, found_gradients = TaskSteps(task).generator(batch, {})
    torch.testing.assert_close(found.value, plain.value + 5 * distance.detach())
    torch.testing.assert_close(found.log["loss/layers"], distance.detach())
    for one, before, added in zip(found_gradients, gradients, of_distance, strict=True):
        torch.testing.assert_close(one, before + 5 * added, rtol=1e-3, atol=1e-5)


def test_misuse_of_layer_matching():
    generator, discriminator = networks()
    with pytest.raises(UsageError, match="layer_matching: expected a number >= 0, got -1"):
        task_of(generator, discriminator, layer_matching=-1.0)
    own = nn.Sequential(nn.Conv2d(3, 1, 4))
    with pytest.raises(UsageError, match="layer_matching: expected a discriminator with a method `features`"):
        task_of(generator, own, layer_matching=1.0)
    config = Config.from_flags(task="paired", task_options={"layer_matching": 1.0}, feature_matching=2.0)
    with pytest.raises(UsageError, match=r"layer_matching: it is not combined with feature_matching, got 2\.0"):
        Trainer(generator, discriminator, config=config)


def test_a_list_of_scalars_is_no_output():
    class Wrong(nn.Module):
        def forward(self, images):
            return [images.mean(), images.mean()]

    from fastgan.tasks.networks import discriminate

    with pytest.raises(UsageError, match="expected a tensor of logits, or a list of tensors"):
        discriminate(Wrong(), torch.zeros(2, 3, 4, 4))
    assert Output(torch.zeros(1), None).scales == ()


# --- dropout ----------------------------------------------------------------------------------------------------------


class Pairs(Resumable):
    def batch(self, source):
        shape = (4, 3, 64, 64)
        return torch.rand(4, 1, 64, 64, generator=source) * 2 - 1, torch.rand(shape, generator=source) * 2 - 1


@pytest.mark.parametrize("compile", ["off", pytest.param("on", marks=pytest.mark.slow)])
def test_a_run_with_dropout_resumes_bit_for_bit(tmp_path, compile):
    def run(out, steps, resume=False):
        generator, discriminator = networks(resolution=64)
        config = Config.from_flags(steps=steps, **QUIET | {"compile": compile})
        trainer = Trainer(generator, discriminator, config=config, out=tmp_path / out)
        trainer.fit(Pairs(), resume=resume)
        return trainer

    whole = run("whole", 4)
    assert any(isinstance(layer, nn.Dropout) for layer in whole.generator.modules())
    run("parts", 2)
    # What is drawn in between changes nothing.
    torch.rand(7)
    parts = run("parts", 4, resume=True)
    for name in ("generator", "discriminator"):
        for one, other in zip(getattr(whole, name).parameters(), getattr(parts, name).parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.full
@pytest.mark.parametrize("family", ["pix2pix", "pix2pixhd"])
def test_steps_are_captured_whole(tmp_path, monkeypatch, family):
    """With dropout in one family; in the other several scales, whose layers are matched, and dropout nowhere."""
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(
        CompiledStep, "_inductor", lambda self, f: torch.compile(f, fullgraph=True, dynamic=False, backend="eager")
    )
    torch._dynamo.reset()
    options, found = ({}, []) if family == "pix2pix" else ({"blocks": 1, "scales": 2}, [])
    for compile in ("on", "off"):
        task_options = {"layer_matching": 5.0 if family == "pix2pixhd" else 0.0, "flip": True}
        config = Config.from_flags(
            steps=2, task="paired", task_options=task_options, **QUIET | {"compile": compile, "sample_every": 1}
        )
        trainer = Trainer(*networks(family, resolution=64, **options), config=config)
        trainer.fit(Pairs())
        assert trainer.steps.compiled == (compile == "on")
        # Not the weights: the gradient of a bias before an instance norm is 0 up to rounding, which Adam makes a step.
        with torch.no_grad():
            source, target = Pairs().batch(torch.Generator().manual_seed(9))
            made = trainer.generator.eval()(source)
            found.append([made, *trainer.discriminator.features(target, source)[0]])
    # The back-end "eager" draws what eager steps draw.
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_dropout_draws_anew_in_every_step():
    generator, discriminator = networks(resolution=64)
    task, batch = task_of(generator, discriminator), pair(2, 64)
    state = copy.deepcopy(generator.state_dict())
    first = TaskSteps(task).generator(batch, {})[0].value
    generator.load_state_dict(state)
    assert TaskSteps(task).generator(batch, {})[0].value != first


def test_the_task_by_its_name_takes_the_options():
    config = Config.from_flags(task="paired", task_options={"crop": 16, "flip": True}, steps=1, compile="off")
    task = Trainer(*networks(), config=config).task
    assert type(task) is Paired
    assert (task.crop, task.flip) == (16, True)
