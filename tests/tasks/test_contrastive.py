"""Contrastive translation: the losses written out patch by patch, FastCUT's mirrored images, features."""

import contextlib
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from fastgan import models
from fastgan._util.random import Random
from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL
from fastgan.losses.config import LossConfig
from fastgan.models.translation import ResNetGenerator
from fastgan.regularization import Regularization, RegularizationConfig
from fastgan.tasks.contrastive import Contrastive
from fastgan.train.step import TaskSteps

CPU = torch.device("cpu")


@contextlib.contextmanager
def counting():
    """How often operations run, by name."""
    counts = Counter()
    with torch.profiler.profile() as found:
        yield counts
    counts.update({e.key.removeprefix("aten::").removeprefix("fastgan_"): e.count for e in found.key_averages()})


def task(norm="instance", **options):
    torch.manual_seed(0)
    networks = models.build(
        "cut", resolution=16, channels=3, latent=1, width=4, blocks=2, layers=1, head_width=6, norm=norm
    )
    methods = Regularization(RegularizationConfig(), CPU)
    return Contrastive(*networks, ADVERSARIAL["least-squares"], LossConfig(), methods, **{"patches": 5} | options)


def batch():
    source = torch.Generator().manual_seed(1)
    return {name: torch.rand(2, 3, 16, 16, generator=source) * 2 - 1 for name in ("a", "b")}


def features(generator, image):
    """Outputs of the layers by their place in the network, without `ResNetGenerator.features`."""
    found, handles = [image], []
    for i in (4, 7, 10, 11):
        handles.append(generator.model[i].register_forward_hook(lambda _, __, y: found.append(y.clone())))
    generator(image)
    for handle in handles:
        handle.remove()
    return found


def nce(heads, queries, keys, places, temperature):
    """Equation 3, summed over the patches of each image by loops."""
    total, count = 0.0, 0
    for head, query, key, chosen in zip(heads.heads, queries, keys, places, strict=True):
        of_layer = 0.0
        for n, spots in enumerate(chosen):
            q = normalize(head(query[n].flatten(1).T[spots]), dim=1)
            k = normalize(head(key[n].flatten(1).T[spots]), dim=1).detach()
            for s in range(len(spots)):
                near = (q[s] * k).sum(1) / temperature
                of_layer = of_layer - (near[s] - near.logsumexp(0)) / len(spots) / len(chosen)
        total, count = total + of_layer, count + 1
    return total / count


@pytest.mark.parametrize("equivariance", [False, True])
def test_the_generators_loss_written_out(equivariance):
    t, images = task(nce_weight=2.0, temperature=0.1, equivariance=equivariance), batch()
    a, b, network, heads = images["a"], images["b"], t.generator["a_to_b"], t.generator["heads"]
    noise = t.draw("generator", images, Random(0, CPU), 0)
    if equivariance:
        noise["mirrored"] = torch.tensor([True, False])
    places = {name: [noise[f"patches.{name}.{i}"] for i in range(5)] for name in ("a", "b")}
    for i, (height, width) in enumerate([(16, 16), (8, 8), (4, 4), (4, 4), (4, 4)]):
        for each in places["a"][i]:
            assert len(each.unique()) == 5
            assert 0 <= each.min() <= each.max() < height * width
    result, gradients = TaskSteps(t).generator(images, noise)
    shown = torch.stack([a[0].flip(2), a[1]]) if equivariance else a
    fake, same = network(shown), network(b)
    queries = features(network, fake)
    if equivariance:
        queries = [torch.stack([q[0].flip(2), q[1]]) for q in queries]
    of_a = nce(heads, queries, features(network, a), places["a"], 0.1)
    of_b = nce(heads, features(network, same), features(network, b), places["b"], 0.1)
    whole = (t.discriminator(fake) - 1).square().mean() + 2.0 * (of_a + of_b) / 2
    torch.testing.assert_close(result.value, whole.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.log["loss/nce_a"], of_a.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.log["loss/nce_b"], of_b.detach(), rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(whole, t.generator.parameters(), allow_unused=True)
    for ours, plain in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(result.outputs["fake.b"], fake.detach())


def test_without_identity():
    t, images = task(identity=False), batch()
    noise = t.draw("generator", images, Random(0, CPU), 0)
    assert not any(name.startswith("patches.b") for name in noise)
    log = t.generator_loss(images, noise).log
    assert "loss/nce_a" in log
    assert "loss/nce_b" not in log


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_discriminators_loss_written_out(norm):
    t, images = task(norm), batch()
    assert t.apart == (norm == "batch")
    fake = images["a"] * 0.5
    result, gradients = TaskSteps(t).discriminator(images, {"fake.b": fake})
    whole = ((t.discriminator(images["b"]) - 1).square().mean() + t.discriminator(fake).square().mean()) / 2
    torch.testing.assert_close(result.value, whole.detach())
    expected = torch.autograd.grad(whole, t.discriminator.parameters())
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=2e-5)


def test_features_of_a_generator():
    network = ResNetGenerator(3, 1, blocks=6, width=4, downsamplings=3)
    x = torch.rand(2, 3, 24, 16)
    image, found = network.features(x, image=True)
    torch.testing.assert_close(image, network(x))
    assert [each.shape[1] for each in found] == network.feature_channels == [3, 8, 16, 32, 32, 32]
    assert [(*each.shape[2:],) for each in found] == network.feature_sizes(24, 16)
    assert network.feature_layers == [4, 7, 10, 13, 17]  # the fifth block
    with counting() as counts:
        nothing, alone = network.features(x)
    assert counts["instance_norm_act"] == 14
    assert not counts["relu_"]  # the norms' op has run them
    assert nothing is None
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_what_does_not_fit():
    t = task()
    methods = Regularization(RegularizationConfig(), CPU)
    for wrong, expected in (
        (lambda: task(patches=1), "patches: expected a number >= 2, got 1"),
        (lambda: task(temperature=0.0), "temperature: expected a number > 0, got 0.0"),
        (lambda: task(nce_weight=-1.0), "nce_weight: expected a number >= 0, got -1.0"),
        (
            lambda: Contrastive(
                nn.ModuleDict({"a_to_b": t.generator["a_to_b"]}), t.discriminator, ADVERSARIAL["hinge"], LossConfig(),
                methods,
            ),
            "generator: contrastive expects an nn.ModuleDict of a_to_b and heads, got one of a_to_b",
        ),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=expected):
            wrong()
