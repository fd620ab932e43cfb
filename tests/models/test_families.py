"""What every family keeps, small, with and without labels."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan import models
from fastgan.errors import UsageError
from fastgan.testing.families import FAMILIES, family, latents_and_labels, total_logits

CONDITIONAL = [name for name, options in FAMILIES.items() if "classes" in options]


def idle(generator, discriminator):
    """Parameters that a fully grown progan has for its stages before."""
    names = set()
    if hasattr(generator, "stages") and hasattr(generator, "grow"):
        for network, part in ((generator, "to_image"), (discriminator, "from_image")):
            names |= {name for name, _ in network.named_parameters() if name.startswith(part)}
            names -= {f"{part}.{network.stage}.weight", f"{part}.{network.stage}.bias"}
    return names


def test_all_are_here():
    assert {options["name"] for options in FAMILIES.values()} == set(models.FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_are_as_promised(name):
    generator, discriminator = family(name)
    inputs = latents_and_labels(generator, 4)
    images = generator(*inputs)
    assert images.shape == (4, *generator.image_shape)
    assert images.dtype == torch.float32
    if FAMILIES[name]["name"] not in ("progan", "r3gan") and name != "mlp line":  # these end in a linear layer
        assert images.abs().max() <= 1
    assert discriminator.classes == generator.classes == FAMILIES[name].get("classes", 0)
    if discriminator.auxiliary:
        logits, classes = discriminator(images)
        assert classes.shape == (4, discriminator.classes)
    else:
        logits = discriminator(images, *inputs[1:])
    assert logits.shape == (4,)


@pytest.mark.parametrize("name", FAMILIES)
def test_ten_steps_with_a_penalty_move_every_weight(name):
    generator, discriminator = family(name)
    z, *labels = latents_and_labels(generator, 8)
    real = torch.rand(8, *generator.image_shape) * 2 - 1
    players = [(net, torch.optim.Adam(net.parameters(), 1e-3, (0.0, 0.99))) for net in (generator, discriminator)]
    before = [[p.detach().clone() for p in net.parameters()] for net, _ in players]
    for _ in range(10):
        x = real.clone().requires_grad_()
        verdicts = total_logits(discriminator, x, *labels)
        (slope,) = torch.autograd.grad(verdicts.sum(), x, create_graph=True)
        d_loss = F.softplus(-verdicts).mean() + slope.square().sum((1, 2, 3)).mean()
        d_loss = d_loss + F.softplus(total_logits(discriminator, generator(z, *labels).detach(), *labels)).mean()
        g_loss = -total_logits(discriminator, generator(z, *labels), *labels).mean()
        for (net, _), loss in zip(players, (g_loss, d_loss), strict=True):
            weights = list(net.parameters())
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                weight.grad = gradient
        for _, optimizer in players:
            optimizer.step()
        assert g_loss.isfinite()
        assert d_loss.isfinite()
    still = idle(generator, discriminator)
    for (net, _), old in zip(players, before, strict=True):
        for (weight_name, weight), first in zip(net.named_parameters(), old, strict=True):
            assert weight.isfinite().all(), weight_name
            assert torch.equal(weight, first) == (weight_name in still), weight_name


@pytest.mark.parametrize("name", FAMILIES)
def test_second_derivatives_are_right(name):
    """The penalty's gradient for the weights, against a finite difference in double."""
    generator, discriminator = family(name)
    discriminator.double().eval()
    x = torch.rand(4, *generator.image_shape, dtype=torch.float64) * 2 - 1
    labels = latents_and_labels(generator, 4)[1:]
    weights = [weight for weight in discriminator.parameters() if weight.dim() > 1]
    directions = [torch.randn_like(weight) for weight in weights]

    def penalty(step):
        with torch.no_grad():
            torch._foreach_add_(weights, directions, alpha=step)
        at = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(total_logits(discriminator, at, *labels).sum(), at, create_graph=True)
        return slope.square().sum()

    gradients = torch.autograd.grad(penalty(0.0), weights, allow_unused=True)
    exact = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    step = 1e-7  # few kinks are met on such a way
    numeric = (penalty(step) - penalty(-2 * step)) / (2 * step)
    torch.testing.assert_close(exact, numeric.detach(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
def test_copies_are_equal_and_their_own(name):
    """As an average of the weights needs them."""
    for network in family(name):
        twin = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1)
        for own, other in zip(network.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(own + 1, other)
        twin.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    "name",
    ["mlp projection", "dcgan auxiliary", "biggan projection", "progan auxiliary", "r3gan projection"],
)
def test_the_whole_network_is_one_graph(name):
    generator, discriminator = family(name)
    inputs = latents_and_labels(generator, 4)
    torch._dynamo.reset()

    @functools.partial(torch.compile, fullgraph=True, backend="eager")
    def run(network, *args):  # a function around the network: the hooks of its spectral norms are part of the graph
        return network(*args)

    images = run(generator, *inputs)
    torch.testing.assert_close(images, family(name)[0](*inputs))
    run(discriminator, images.detach(), *(() if discriminator.auxiliary else inputs[1:]))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_labels_count(name):
    """Another class is another image and another verdict; each image depends on its own label alone."""
    generator, discriminator = family(name)
    z, y = latents_and_labels(generator, 8)
    for network in (generator, discriminator):
        network.train()
        with torch.no_grad():
            for parameter in network.parameters():  # conditional norms start without condition
                parameter.add_(0.1 * torch.randn_like(parameter))
    generator(z, y)
    generator.eval()
    discriminator.eval()
    other = y.clone()
    other[0] = (y[0] + 1) % 3
    changed = (generator(z, y) - generator(z, other)).flatten(1).norm(dim=1)
    assert changed[0] > 1e-4
    assert changed[1:].max() < 1e-4 * max(1, changed[0])
    images = generator(z, y)
    if not discriminator.auxiliary:
        changed = (discriminator(images, y) - discriminator(images, other)).abs()
        assert changed[0] > 1e-6
        if not hasattr(discriminator, "grow"):  # whose minibatch statistics tie the samples together
            assert changed[1:].max() < 1e-6


@pytest.mark.parametrize("name", CONDITIONAL)
def test_labels_are_asked_for(name):
    generator, discriminator = family(name)
    with pytest.raises(UsageError, match="y: expected labels, int64"):
        generator(torch.randn(4, generator.latent))
    if not discriminator.auxiliary:
        with pytest.raises(UsageError, match="y: expected labels, int64"):
            discriminator(torch.zeros(4, *generator.image_shape))


def test_labels_for_networks_without_are_refused():
    for name in ("mlp", "dcgan", "resnet", "biggan", "progan", "r3gan"):
        generator, discriminator = family(name)
        y = torch.zeros(4, dtype=torch.int64)
        with pytest.raises(UsageError, match="y: "):
            generator(torch.randn(4, generator.latent), y)
        with pytest.raises(UsageError, match="y: "):
            discriminator(torch.zeros(4, *generator.image_shape), y)


SIZES = {"resolution": 32, "channels": 3, "latent": 8, "width": 8}
REFUSED = [
    ("dcgan", {"classes": -1}, "classes: expected a number >= 0, got -1"),
    (
        "dcgan",
        {"attention": 16},
        "attention: dcgan takes condition, minibatch_discrimination beside what all take, got attention=16",
    ),
    ("dcgan", {"condition": "concat"}, "condition: 'concat' needs labels, and classes is 0"),
    (
        "dcgan",
        {"classes": 2, "condition": "embed"},
        "condition: dcgan takes projection or concat or auxiliary",
    ),
    ("mlp", {"variant": "deeper"}, "variant: mlp takes deep, original, minimal, line, got 'deeper'"),
    (
        "mlp",
        {"variant": "minimal", "classes": 2, "condition": "projection"},
        "to put labels into, 'minimal' has none",
    ),
    (
        "mlp",
        {"variant": "original", "width": 12},
        "needs a multiple of its 5 pieces, got 12",
    ),
    ("mlp", {"variant": "original", "d_norm": "batch"}, "d_norm: the original discriminator has maxout layers"),
    ("mlp", {"variant": "line"}, "resolution: the pair on a line works on single numbers, expected 1, got 32"),
    ("mlp", {"variant": "line", "resolution": 1, "channels": 1, "latent": 1, "classes": 2}, "classes: the pair on a"),
    ("resnet", {"resolution": 28}, "resolution: resnet makes images of 32, 64 or 128, got 28"),
    ("resnet", {"d_norm": "batch"}, "d_norm: resnet's discriminator takes none or spectral, got 'batch'"),
    ("biggan", {"resolution": 48}, "resolution: biggan makes images of 32, 64, 128, 256, 512, got 48"),
    ("biggan", {"d_norm": "batch"}, "d_norm: biggan's discriminator takes none or spectral, got 'batch'"),
    ("biggan", {"latent": 10}, "latent: biggan splits z into 4 equal parts at 32×32, expected a multiple of 4, got 10"),
    ("biggan", {"classes": 2, "condition": "concat"}, "condition: biggan takes projection, got 'concat'"),
    ("biggan", {"classes": 2, "embedding": 0}, "embedding: expected a number >= 1, got 0"),
    ("biggan", {"attention": 32}, "attention: expected 0 or the side of a feature map, 8, 16, got 32"),
    ("progan", {"resolution": 28}, "resolution: progan grows from 4 to a power of two from 8 on, got 28"),
    (
        "progan",
        {"d_norm": "spectral"},
        "d_norm: progan's discriminator has equalized learning rates and no norm",
    ),
    ("progan", {"resolution": 512}, "width: progan halves it from 64×64 on; at 512 nothing is left of 8"),
    (
        "progan",
        {"classes": 2, "condition": "projection"},
        "condition: progan takes auxiliary or concat, got",
    ),
    ("r3gan", {"resolution": 24}, "resolution: r3gan needs a power of two from 8 on, got 24"),
    ("r3gan", {"width": 12}, "width: r3gan at 32×32 needs a multiple of 8, got 12"),
    ("r3gan", {"resolution": 128}, "width: r3gan at 128×128 needs a multiple of 32, got 8"),
    ("r3gan", {"d_norm": "spectral"}, "d_norm: r3gan works without norms, got 'spectral'; use none"),
]


@pytest.mark.parametrize(("name", "options", "sentence"), REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(name, options, sentence):
    with pytest.raises(UsageError) as refusal:
        models.build(name, **SIZES | options)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["resnet projection", "biggan projection"])
def test_fresh_networks_under_spectral_norm_work_in_eval_mode(name):
    """Their vectors belong to the weights they start with: a normalized weight's largest singular value is about 1."""
    for network in family(name):
        network.eval()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and hasattr(layer, "parametrizations"):
                sigma = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
                assert 0.99 < sigma < 1.2
