"""Contracts that every family fulfills, tested with small networks, conditional and unconditional."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan import models
from fastgan.errors import UsageError
from fastgan.models.registry import OF_IMAGES
from fastgan.nn import MinibatchStdDev
from fastgan.testing.families import FAMILIES, family, latents_and_labels, total_logits

CONDITIONAL = [name for name, options in FAMILIES.items() if "classes" in options]
#: The discriminators of these run as many layers as those of "projected" and "stylegan-xl labels".
NAMES = [
    pytest.param(name, marks=pytest.mark.full) if name in ("projected labels", "stylegan-xl") else name
    for name in FAMILIES
]


def unused(generator, discriminator):
    """Names of the parameters that networks that grow do not use at the full resolution: those of earlier stages."""
    names = set()
    if hasattr(generator, "stages") and hasattr(generator, "grow"):
        for network, part in ((generator, "to_image"), (discriminator, "from_image")):
            own = {name for name, _ in network.named_parameters() if part in name}
            names |= {name for name in own if f"{part}.{network.stage}." not in name}
    return names


def test_every_family_is_tested():
    """Here, or with the tasks of images that are made of images."""
    assert {options["name"] for options in FAMILIES.values()} == set(models.FAMILIES) - OF_IMAGES


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_ranges(name):
    generator, discriminator = family(name)
    inputs = latents_and_labels(generator, 4)
    images = generator(*inputs)
    assert images.shape == (4, *generator.image_shape)
    assert images.dtype == torch.float32
    linear = ("progan", "r3gan", "stylegan", "stylegan2", "stylegan3", "stylegan-xl", "projected")  # the last layer
    if FAMILIES[name]["name"] not in linear and name != "mlp linear":
        assert images.abs().max() <= 1
    assert discriminator.classes == generator.classes == FAMILIES[name].get("classes", 0)
    if discriminator.auxiliary:
        logits, classes = discriminator(images)
        assert classes.shape == (4, discriminator.classes)
    else:
        logits = discriminator(images, *inputs[1:])
    if FAMILIES[name]["name"] in ("projected", "stylegan-xl"):  # logits of several sizes
        assert logits.shape[0] == 4
    else:
        assert logits.shape == (4,)


@pytest.mark.parametrize("name", NAMES)
def test_ten_steps_with_a_penalty_change_every_weight(name):
    generator, discriminator = family(name)
    z, *labels = latents_and_labels(generator, 8)
    real = torch.rand(8, *generator.image_shape) * 2 - 1
    networks = [(net, torch.optim.Adam(net.parameters(), 1e-3, (0.0, 0.99))) for net in (generator, discriminator)]
    before = [[p.detach().clone() for p in net.parameters()] for net, _ in networks]
    for _ in range(10):
        x = real.clone().requires_grad_()
        logits = total_logits(discriminator, x, *labels)
        (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        d_loss = F.softplus(-logits).mean() + slope.square().sum((1, 2, 3)).mean()
        d_loss = d_loss + F.softplus(total_logits(discriminator, generator(z, *labels).detach(), *labels)).mean()
        g_loss = -total_logits(discriminator, generator(z, *labels), *labels).mean()
        for (net, _), loss in zip(networks, (g_loss, d_loss), strict=True):
            weights = list(net.parameters())
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                weight.grad = gradient
        for _, optimizer in networks:
            optimizer.step()
        assert g_loss.isfinite()
        assert d_loss.isfinite()
    unchanged = unused(generator, discriminator)
    for (net, _), old in zip(networks, before, strict=True):
        for (weight_name, weight), first in zip(net.named_parameters(), old, strict=True):
            assert weight.isfinite().all(), weight_name
            assert torch.equal(weight, first) == (weight_name in unchanged), weight_name


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_penalty_equals_a_finite_difference(name):
    """With respect to the weights, in float64."""
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
    step = 1e-7  # small, so that few leaky ReLUs change their sign
    numeric = (penalty(step) - penalty(-2 * step)) / (2 * step)
    torch.testing.assert_close(exact, numeric.detach(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_deep_copies_are_equal_and_independent(name):
    """As the exponential moving average of the weights requires."""
    for network in family(name):
        duplicate = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in duplicate.parameters():
                parameter.add_(1)
        for own, other in zip(network.parameters(), duplicate.parameters(), strict=True):
            torch.testing.assert_close(own + 1, other)
        duplicate.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    "name",
    [
        "mlp projection",
        "dcgan auxiliary",
        "biggan projection",
        "progan auxiliary",
        "stylegan labels",
        pytest.param("projected labels", marks=pytest.mark.full),
        "r3gan projection",
        "stylegan2 labels",
    ],
)
def test_the_whole_network_is_one_graph(name):
    generator, discriminator = family(name)
    inputs = latents_and_labels(generator, 4)
    torch._dynamo.reset()

    @functools.partial(torch.compile, fullgraph=True, backend="eager")
    def run(network, *args):  # a function around the network, so that the hooks of spectral norms are in the graph
        return network(*args)

    images = run(generator, *inputs)
    torch.testing.assert_close(images, family(name)[0](*inputs))
    run(discriminator, images.detach(), *(() if discriminator.auxiliary else inputs[1:]))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_outputs_depend_on_the_sample_s_own_label_only(name):
    generator, discriminator = family(name)
    z, y = latents_and_labels(generator, 8)
    for network in (generator, discriminator):
        network.train()
        with torch.no_grad():
            for parameter in network.parameters():  # conditional norms ignore the label at initialization
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
        changed = (discriminator(images, y) - discriminator(images, other)).abs().view(8, -1).amax(1)
        assert changed[0] > 1e-6
        if not any(isinstance(layer, MinibatchStdDev) for layer in discriminator.modules()):  # it couples samples
            assert changed[1:].max() < 1e-6


@pytest.mark.parametrize("name", CONDITIONAL)
def test_missing_labels_are_an_error(name):
    generator, discriminator = family(name)
    with pytest.raises(UsageError, match=r"[cy]: expected labels, int64"):
        generator(torch.randn(4, generator.latent))
    if not discriminator.auxiliary:
        with pytest.raises(UsageError, match=r"[cy]: expected labels, int64"):
            discriminator(torch.zeros(4, *generator.image_shape))


def test_labels_for_unconditional_networks_are_an_error():
    for name in ("mlp", "dcgan", "resnet", "biggan", "progan", "r3gan", "stylegan2"):
        generator, discriminator = family(name)
        y = torch.zeros(4, dtype=torch.int64)
        with pytest.raises(UsageError, match=r"[cy]: "):
            generator(torch.randn(4, generator.latent), y)
        with pytest.raises(UsageError, match=r"[cy]: "):
            discriminator(torch.zeros(4, *generator.image_shape), y)


SIZES = {"resolution": 32, "channels": 3, "latent": 8, "width": 8}
ERRORS = [
    ("dcgan", {"classes": -1}, "classes: expected a number >= 0, got -1"),
    (
        "dcgan",
        {"attention": 16},
        "attention: dcgan has the options condition, minibatch_discrimination, got attention=16",
    ),
    ("dcgan", {"condition": "concat"}, "condition: 'concat' needs labels, and classes is 0"),
    (
        "dcgan",
        {"classes": 2, "condition": "embed"},
        "condition: dcgan supports projection or concat or auxiliary",
    ),
    ("mlp", {"variant": "deeper"}, "variant: mlp supports deep, original, minimal, linear, got 'deeper'"),
    (
        "mlp",
        {"variant": "minimal", "classes": 2, "condition": "projection"},
        "projection needs batch norms in the generator, and variant 'minimal' has none",
    ),
    (
        "mlp",
        {"variant": "original", "width": 12},
        "needs a multiple of its 5 pieces, got 12",
    ),
    ("mlp", {"variant": "original", "d_norm": "batch"}, "d_norm: the original discriminator has maxout layers"),
    ("mlp", {"variant": "linear"}, "resolution: the linear variant works on scalars, expected 1, got 32"),
    ("mlp", {"variant": "linear", "resolution": 1, "channels": 1, "latent": 1, "classes": 2}, "classes: the linear"),
    ("resnet", {"resolution": 28}, "resolution: resnet supports 32, 64 or 128, got 28"),
    ("resnet", {"d_norm": "batch"}, "d_norm: resnet's discriminator supports none or spectral, got 'batch'"),
    ("biggan", {"resolution": 48}, "resolution: biggan supports 32, 64, 128, 256, 512, got 48"),
    ("biggan", {"d_norm": "batch"}, "d_norm: biggan's discriminator supports none or spectral, got 'batch'"),
    ("biggan", {"latent": 10}, "latent: biggan splits z into 4 equal parts at 32×32, expected a multiple of 4, got 10"),
    ("biggan", {"classes": 2, "condition": "concat"}, "condition: biggan supports projection, got 'concat'"),
    ("stylegan2", {"classes": 2, "condition": "concat"}, "condition: stylegan2 supports projection, got 'concat'"),
    ("stylegan3", {"condition": "projection"}, "condition: 'projection' needs labels, and classes is 0"),
    ("biggan", {"classes": 2, "embedding": 0}, "embedding: expected a number >= 1, got 0"),
    ("biggan", {"attention": 32}, "attention: expected 0 or the side of a feature map, 8, 16, got 32"),
    ("progan", {"resolution": 28}, "resolution: progan supports powers of two from 8, got 28; give 16 or 32"),
    (
        "progan",
        {"d_norm": "spectral"},
        "d_norm: progan's discriminator has equalized learning rates and supports no norm",
    ),
    (
        "progan",
        {"resolution": 512},
        "width: progan halves it at each level from 64×64; at 512×512 no channel is left of 8",
    ),
    (
        "progan",
        {"classes": 2, "condition": "projection"},
        "condition: progan supports auxiliary or concat, got",
    ),
    ("r3gan", {"resolution": 24}, "resolution: r3gan supports powers of two from 8, got 24"),
    ("r3gan", {"width": 12}, "width: r3gan at 32×32 needs a multiple of 8, got 12"),
    ("r3gan", {"resolution": 128}, "width: r3gan at 128×128 needs a multiple of 32, got 8"),
    ("stylegan2", {"resolution": 24}, "resolution: stylegan2 and the discriminator of stylegan3 support powers of two"),
    ("stylegan2", {"d_norm": "batch"}, "d_norm: stylegan2 has equalized learning rates and supports no norm"),
    ("stylegan2", {"channel_base": 16}, "channel_base: expected a number >= img_resolution 32, got 16"),
    ("stylegan2", {"mapping_layers": 0}, "mapping_layers: expected a number >= 1, got 0"),
    ("stylegan2", {"group": 0}, "group: expected a number >= 1, got 0"),
    ("r3gan", {"d_norm": "spectral"}, "d_norm: r3gan supports no norm, got 'spectral'; use none"),
]


@pytest.mark.parametrize(("name", "options", "message"), ERRORS)
def test_unsupported_options_are_errors_of_one_line(name, options, message):
    with pytest.raises(UsageError) as error:
        models.build(name, **SIZES | options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet projection", "biggan projection"])
def test_spectral_norm_is_right_in_eval_mode_before_any_step(name):
    """The vectors belong to the initial weights: the largest singular value of a normalized weight is about 1."""
    for network in family(name):
        network.eval()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and hasattr(layer, "parametrizations"):
                sigma = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
                assert 0.99 < sigma < 1.2


@pytest.mark.parametrize("condition", ["concat", "projection"])
def test_labels_of_another_kind_are_explained(condition):
    generator, discriminator = models.build(
        "mlp", resolution=4, channels=1, latent=4, width=4, classes=3, condition=condition
    )
    z, x = torch.randn(2, 4), torch.randn(2, 1, 4, 4)
    for y, came in ((torch.eye(3)[:2], r"float32 \[2, 3\]"), (torch.zeros(2), r"float32 \[2\]")):
        for network, given in ((generator, z), (discriminator, x)):
            with pytest.raises(UsageError, match=f"y: expected labels, int64 .* got {came}"):
                network(given, y)
