"""Style mixing and path length regularization, on a small generator with mapping and synthesis."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from fastgan import Config, Trainer
from fastgan.errors import UsageError
from fastgan.regularization.path_length import path_lengths
from fastgan.regularization.style_mixing import mixed_styles
from fastgan.testing.batches import Resumable
from fastgan.train.step import TaskSteps

LAYERS, STYLES = 3, 5
SMALL = {"batch": 8, "log_every": 1, "sample_every": 100, "checkpoint_every": 3, "compile": "off"}


class Mapping(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer, self.classes = nn.Linear(4 + classes, STYLES), classes

    def forward(self, z, c=None):
        if self.classes:
            z = torch.cat([z, nn.functional.one_hot(c, self.classes).to(z.dtype)], 1)
        return torch.tanh(self.layer(z))[:, None].expand(-1, LAYERS, -1)


class Synthesis(nn.Module):
    """A product of one factor for each layer's styles, so that its derivative in one depends on the others."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(STYLES, 64) for _ in range(LAYERS))

    def forward(self, w):
        factors = [1 + torch.tanh(layer(w[:, i])) for i, layer in enumerate(self.layers)]
        return (math.prod(factors) - 1).unflatten(1, (1, 8, 8))


class Styled(nn.Module):
    latent, image_shape = 4, (1, 8, 8)

    def __init__(self, classes=0):
        super().__init__()
        self.classes = classes
        self.mapping, self.synthesis = Mapping(classes), Synthesis()

    def forward(self, z, c=None):
        return self.synthesis(self.mapping(z, c))


class Labeled(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.label = nn.Linear(64, 1), nn.Embedding(3, 64)

    def forward(self, x, c):
        return (self.image(x.flatten(1)) + (x.flatten(1) * self.label(c)).sum(1, keepdim=True)).flatten()


class Batches(Resumable):
    def batch(self, source):
        return torch.rand(8, 1, 8, 8, generator=source) * 2 - 1


def trainer(out=None, classes=0, generator=None, **options):
    torch.manual_seed(0)
    discriminator = Labeled() if classes else nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    return Trainer(generator or Styled(classes), discriminator, "non-saturating",
                   Config.from_flags(**SMALL | options), out=out)  # fmt: skip


def batch_of(classes=0):
    real = torch.rand(8, 1, 8, 8) * 2 - 1
    return {"real": real} | ({"labels": torch.randint(classes, (8,))} if classes else {})


def plain_lengths(synthesis, w, y):
    """The definition: the whole Jacobian of each image, in float64."""
    lengths = []
    for styles, direction in zip(w, y, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda s: synthesis(s[None])[0], styles, create_graph=True)
        product = (jacobian * direction[..., None, None]).sum((0, 1, 2)) / 8
        lengths.append(product.square().sum(1).mean().sqrt())
    return torch.stack(lengths)


def test_path_lengths_and_their_gradients_follow_the_definition():
    torch.manual_seed(1)
    generator = Styled().double()
    z, y = torch.randn(3, 4).double(), torch.randn(3, 1, 8, 8).double()
    w = generator.mapping(z)
    ours, plain = (f(generator.synthesis, w, y) for f in (path_lengths, plain_lengths))
    torch.testing.assert_close(ours.double(), plain, rtol=1e-6, atol=0)
    scaled = path_lengths(generator.synthesis, w, y, 1024.0)
    torch.testing.assert_close(scaled, ours, rtol=1e-6, atol=0)
    weights = list(generator.parameters())
    found, wanted = (
        torch.autograd.grad((each - 0.1).square().mean(), weights, retain_graph=True, allow_unused=True)
        for each in (ours.double(), plain)
    )
    for mine, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_generator_step_adds_path_length_every_fourth_step(classes):
    t = trainer(classes=classes, path_length=2.0, path_length_interval=4)
    batch = batch_of(classes)
    for step in range(9):
        noise = t.task.draw("generator", batch, t.state.random, step)
        assert noise["lazy"] == (step % 4 == 0)
    assert noise["path.z"].shape == (4, 4)
    noise["path.mean"] = torch.tensor(0.3)
    loss, gradients = TaskSteps(t.task).generator(batch, noise)
    labels = noise.get("labels")
    fakes = t.generator(noise["z"], labels)
    logits = t.discriminator(fakes, labels) if classes else t.discriminator(fakes)
    w = t.generator.mapping(noise["path.z"], noise.get("path.labels"))
    lengths = plain_lengths(t.generator.synthesis, w, noise["path.y"])
    value = softplus(-logits).mean() + 2.0 * 4 * (lengths - 0.3).square().mean()
    torch.testing.assert_close(loss.value, value.detach())
    torch.testing.assert_close(loss.outputs["path_length"], lengths.mean().detach())
    wanted = torch.autograd.grad(value, list(t.generator.parameters()))
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-6)
    without = TaskSteps(t.task).generator(batch, noise | {"lazy": False})[0]
    torch.testing.assert_close(without.value, softplus(-logits).mean().detach())


def test_the_mean_path_length_moves_by_a_hundredth_and_resumes_bit_for_bit(tmp_path):
    options = {"path_length": 2.0, "path_length_interval": 2, "style_mixing": 0.9, "steps": 6}
    whole = trainer(tmp_path / "whole", **options)
    whole.fit(Batches())
    trainer(tmp_path / "part", **options | {"steps": 3}).fit(Batches())
    part = trainer(tmp_path / "part", **options)
    part.fit(Batches(), resume=True)
    assert part.task.regularization.path_length.mean > 0
    for name, tensor in whole.task.tensors().items():
        assert torch.equal(tensor, part.task.tensors()[name]), name
    for mine, other in zip(whole.generator.parameters(), part.generator.parameters(), strict=True):
        assert torch.equal(mine, other)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert ["penalty/path_length" in row for row in rows] == [True, False] * 3

    t = trainer(path_length=2.0, steps=1)
    mean = t.task.regularization.path_length
    for lengths in (2.0, 4.0):
        mean.update([torch.tensor(lengths), torch.tensor(lengths + 1)])
    assert mean.mean.item() == pytest.approx(0.99 * 0.025 + 0.045)
    mean.update([torch.tensor(float("nan"))])
    assert mean.mean.item() == pytest.approx(0.99 * 0.025 + 0.045)


@pytest.mark.full
def test_a_compiled_step_has_the_path_length_of_an_eager_one():
    from fastgan import compile

    t = trainer(path_length=2.0, style_mixing=0.9)
    batch = batch_of()
    noise = t.task.draw("generator", batch, t.state.random, 0)
    step = TaskSteps(t.task).generator
    compiled = compile(step)
    loss, gradients = compiled(batch, noise)
    wanted, right = step(batch, noise)
    assert compiled.variants == 1
    torch.testing.assert_close(loss.value, wanted.value)
    torch.testing.assert_close(gradients, right, rtol=1e-4, atol=1e-6)


def test_styles_are_mixed_from_a_uniform_layer_on_with_the_probability():
    n = 4000
    random = torch.Generator().manual_seed(0)
    z, other, u = (torch.rand(n, k, generator=random) for k in (1, 1, 2))

    class Rows(nn.Module):
        def forward(self, x, c):
            return x[:, None].expand(-1, 4, -1)

    w = mixed_styles(Rows(), z, None, other, u, 0.9)[:, :, 0]
    second = w == other
    assert torch.equal(torch.where(second, other, z), w)
    assert not second[:, 0].any()
    assert torch.equal(second.int().cummax(1).values, second.int())  # never back to the first
    counts = [(second.sum(1) == k).sum().item() / n for k in range(4)]
    assert counts[0] == pytest.approx(0.1, abs=0.02)
    assert counts[1:] == pytest.approx([0.3] * 3, abs=0.03)
    assert torch.equal(mixed_styles(Rows(), z, None, other, u, 0.0)[:, :, 0], z.expand(-1, 4))


def test_both_steps_mix_styles():
    t = trainer(style_mixing=1.0)
    batch = batch_of()
    noise = t.task.draw("generator", batch, t.state.random, 0)
    w = mixed_styles(t.generator.mapping, noise["z"], None, noise["mix.z"], noise["mix.u"], 1.0)
    value = softplus(-t.discriminator(t.generator.synthesis(w))).mean()
    torch.testing.assert_close(TaskSteps(t.task).generator(batch, noise)[0].value, value.detach())
    noise = t.task.draw("discriminator", batch, t.state.random, 0)
    w = mixed_styles(t.generator.mapping, noise["z"], None, noise["mix.z"], noise["mix.u"], 1.0)
    logits = t.discriminator(t.generator.synthesis(w))
    value = softplus(logits).mean() + softplus(-t.discriminator(batch["real"])).mean()
    torch.testing.assert_close(TaskSteps(t.task).discriminator(batch, noise)[0].value, value.detach())


def test_stylegan2_trains_with_everything_and_resumes_bit_for_bit(tmp_path):
    from fastgan import models

    class Images(Resumable):
        def batch(self, source):
            return torch.rand(4, 3, 16, 16, generator=source) * 2 - 1

    def made(out, steps):
        torch.manual_seed(0)
        networks = models.build("stylegan2", resolution=16, channels=3, latent=8, width=8, mapping_layers=2)
        config = Config.from_flags(**SMALL | {
            "batch": 4, "steps": steps, "path_length": 2.0, "path_length_interval": 2, "style_mixing": 0.9,
            "r1_weight": 0.1, "penalty_interval": 2, "augment": "ada", "ada_target": 0.6, "ada_images": 20,
            "ada_interval": 1, "ema_rampup": 0.05, "freeze_d": 1, "checkpoint_every": 2,
        })  # fmt: skip
        return Trainer(*networks, "non-saturating", config, out=out)

    whole, part = made(tmp_path / "whole", 4), made(tmp_path / "part", 4)
    frozen = {name: value.clone() for name, value in whole.discriminator.named_parameters()}
    assert math.isfinite(whole.fit(Images())["loss/generator"])
    made(tmp_path / "part", 2).fit(Images())
    part.fit(Images(), resume=True)
    for network, other in zip(whole.state.networks.values(), part.state.networks.values(), strict=True):
        for (name, mine), theirs in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs), name
    assert whole.task.regularization.path_length.mean > 0
    changed = [n for n, value in whole.discriminator.named_parameters() if not torch.equal(value, frozen[n])]
    assert changed
    assert not any(name.startswith("b16.") for name in changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style_mixing": 0.5}, "style_mixing: expected a generator with `mapping`.*got Sequential; leave it out"),
        ({"path_length": 2.0}, "path_length: expected a generator with `mapping`"),
        ({"style_mixing": 1.5}, r"style_mixing: expected a number in \[0, 1\], got 1.5"),
        ({"path_length_interval": 0}, "path_length_interval: expected a number >= 1, got 0"),
    ],
)
def test_networks_without_styles_and_wrong_values_are_refused(options, message):
    plain = nn.Sequential(nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)))
    with pytest.raises(UsageError, match=message):
        trainer(generator=plain, **options)


def test_another_interval_of_matching_is_refused():
    with pytest.raises(UsageError, match="matching_interval: path length regularization comes every 4 steps"):
        trainer(path_length=2.0, feature_matching=1.0, matching_interval=3)
