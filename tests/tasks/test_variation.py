"""Variation: losses written out in plain PyTorch, what the networks see, and bad input."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import leaky_relu, softplus

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.runtime import Session
from fastgan.train.step import TaskSteps


def trainer(classes=3, task_options=None, **options):
    torch.manual_seed(0)
    kinds = {"classes": classes, "condition": "projection"} if classes else {}
    networks = models.build("variation", resolution=8, channels=1, latent=4, width=2, **kinds)
    config = Config.from_flags(
        task="variation", task_options=task_options or {}, batch=4, latent=4, compile="off", steps=2, **options
    )
    return Trainer(*networks, config=config)


def batch(n=4, classes=3):
    return {
        "source": torch.rand(n, 1, 8, 8) * 2 - 1, "real": torch.rand(n, 1, 8, 8) * 2 - 1,
        "labels": torch.arange(n) % classes,
    }  # fmt: skip


@pytest.mark.parametrize("classes", [0, 3])
def test_the_losses_written_out(classes):
    t = trainer(classes, {"diversity": 0.5})
    data, generator = t.task.collate(batch()), t.generator
    assert ("labels" in data) == bool(classes)
    noise = t.task.draw("generator", data, t.state.random, 1)
    source, (z, other) = data["source"], (noise["z"], noise["z.other"])

    def logits(images):
        if not classes:
            return t.discriminator(images, source)
        hot = torch.nn.functional.one_hot(data["labels"], 3).float()[:, :, None, None].expand(-1, -1, 8, 8)
        return t.discriminator(images, torch.cat([source, hot], 1))

    made, again = generator(source, z), generator(source, other)
    apart = ((made - again).abs().mean((1, 2, 3)) / (z - other).abs().mean(1)).mean()
    loss = softplus(-logits(made)).mean() - 0.5 * apart
    result, gradients = TaskSteps(t.task).generator(data, noise | {"lazy": False})
    torch.testing.assert_close(result.log["diversity"], apart.detach())
    torch.testing.assert_close(gradients, torch.autograd.grad(loss, generator.parameters()), rtol=1e-4, atol=1e-6)
    loss = softplus(-logits(data["real"])).mean() + softplus(logits(made.detach())).mean()
    _, gradients = TaskSteps(t.task).discriminator(data, {"z": z, "lazy": False})
    expected = torch.autograd.grad(loss, t.discriminator.parameters())
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


def test_the_generator_written_out():
    """A U-Net of one halving, whose way up is normalized with scales and shifts from z."""
    generator, _ = models.build("variation", resolution=8, channels=1, latent=4, width=2)
    x, z = torch.rand(2, 1, 8, 8), torch.randn(2, 4)

    def normalized(x, epsilon):
        return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True, correction=0) + epsilon).sqrt()

    first = leaky_relu(generator.start.conv(x), 0.2)
    second = leaky_relu(normalized(generator.down[0](first), 1e-5), 0.2)
    below = second + generator.embed(z)[:, :, None, None]
    scale, shift = (part[:, :, None, None] for part in generator.up[0].style(z).chunk(2, 1))
    up = normalized(generator.up[0].layer(torch.cat([below, second], 1)), 1e-8) * (1 + scale) + shift
    up = leaky_relu(up, 0.2)
    expected = torch.tanh(generator.to_image.conv(torch.cat([up, first], 1)))
    torch.testing.assert_close(generator(x, z), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(generator(x), generator(x, torch.zeros(2, 4)))
    assert (generator(x, z) - generator(x, -z)).abs().mean() > 1e-3


def test_the_discriminator_sees_labels():
    _, network = models.build("variation", resolution=8, channels=1, latent=4, width=2, classes=3)
    torch.nn.init.normal_(network.head.embed.weight)
    image, planes = torch.rand(3, 1, 8, 8), torch.zeros(3, 3, 8, 8)
    for i in range(3):
        planes[i, i] = 1
    source = torch.rand(3, 1, 8, 8)
    logits = network(image, torch.cat([source, planes], 1))
    features = network.blocks(torch.cat([source, image], 1)).flatten(1)
    expected = network.to_logit(features).flatten() + (network.head.embed.weight * features).sum(1)
    torch.testing.assert_close(logits, expected)


def test_images_of_a_pair_are_moved_apart_and_held_out_ones_are_not():
    t = trainer(task_options={"shift": 1, "flip": True})
    data = batch(64)
    data["real"] = data["source"].clone()
    before = {name: value.clone() for name, value in data.items()}
    moved = t.task.transform(data, t.state.random)
    assert torch.equal(data["source"], before["source"])
    assert torch.equal(moved["labels"], data["labels"])
    same = [torch.equal(a, b) for a, b in zip(moved["source"], moved["real"], strict=True)]
    assert 0 < sum(same) < 16  # of 18 possibilities the same one
    # The inner pixels of each are those of one of the 18 moved images.
    whole = torch.nn.functional.pad(before["source"], [1] * 4, mode="reflect")
    crops = [whole[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    crops += [crop.flip(3) for crop in crops]
    for i, image in enumerate(moved["source"]):
        assert any(torch.equal(image, crop[i]) for crop in crops)
    assert t.task.transform(data, None) is data


def test_grids_show_an_image_and_its_variations():
    t = trainer()
    data = t.task.collate(batch())
    found = t.task.samples(data, data, 3)
    assert set(found) == {"fixed", "fresh"}
    rows = found["fixed"].images.unflatten(0, (4, found["fixed"].columns))
    torch.testing.assert_close(rows[:, 0], data["source"])
    assert not torch.equal(rows[:, 1], rows[:, 2])
    assert not torch.equal(found["fresh"].images, found["fixed"].images)


def test_an_exported_generator_takes_z_beside_images(tmp_path):
    from fastgan.export import export

    generator, _ = models.build("variation", resolution=8, channels=1, latent=4, width=2)
    generator.eval().requires_grad_(False)
    export(generator, tmp_path / "vary.onnx")
    session = Session(tmp_path / "vary.onnx")
    x, z = torch.rand(2, 1, 16, 8), torch.randn(2, 4)
    np.testing.assert_allclose(session(x.numpy(), z=z.numpy()), generator(x, z).numpy(), atol=1e-4)
    np.testing.assert_allclose(session(x.numpy()), generator(x).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task_options": {"shift": -1}}, "shift: expected a number >= 0, got -1"),
        ({"task_options": {"diversity": -0.5}}, "diversity: expected a number >= 0, got -0.5"),
        ({"l1_weight": 1.0}, "l1_weight: a variation has no target to be like"),
    ],
)
def test_options_out_of_range(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        trainer(**options)


def test_other_networks_and_batches():
    networks = models.build("dcgan", resolution=8, channels=1, latent=4, width=2)
    with pytest.raises(UsageError, match="expected networks that take images beside z"):
        Trainer(*networks, config=Config.from_flags(task="variation", latent=4))
    t, data = trainer(), batch()
    for wrong in ({"real": data["real"]}, data | {"source": data["source"].byte()}):
        with pytest.raises(UsageError, match="batches: expected a dictionary of images"):
            t.task.collate(wrong)
    with pytest.raises(UsageError, match="labels"):
        t.task.collate({name: data[name] for name in ("source", "real")})
    with pytest.raises(UsageError, match="d_norm: variation supports none and spectral, got 'batch'"):
        models.build("variation", resolution=8, channels=1, latent=4, width=2, d_norm="batch")


def test_a_user_trains_with_batches_of_their_own():
    t = trainer(task_options={"diversity": 0.1, "shift": 1}, held_out=0)
    before = copy.deepcopy(t.generator.state_dict())
    t.fit(iter(batch, None))
    assert all(not torch.equal(value, before[name]) for name, value in t.generator.state_dict().items())
