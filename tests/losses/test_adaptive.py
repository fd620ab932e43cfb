"""The adaptive weight of VQGAN: the public formula, in one pass through each network."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.losses import adaptive_sum


def networks(dtype=torch.float64):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
    discriminator = nn.Sequential(nn.Conv2d(1, 5, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(5, 1, 3))
    features = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU()).requires_grad_(False)
    return [each.to(dtype) for each in (generator, discriminator, features)], torch.randn(3, 1, 8, 8, dtype=dtype)


def losses(discriminator, features, image, x):
    reconstruction = (image - x).abs().mean() + (features(image) - features(x)).square().mean()
    return reconstruction, softplus(-discriminator(image)).mean()


def public(generator, discriminator, features, x, weight):
    """As public code computes it: the gradients of the last layer from retained graphs, then the sum's."""
    reconstruction, adversarial = losses(discriminator, features, generator(x), x)
    last = generator[-1].weight
    first, second = (torch.autograd.grad(t, last, retain_graph=True)[0].norm() for t in (reconstruction, adversarial))
    balance = torch.clamp(first / (second + 1e-4), 0.0, 1e4).detach()
    total = reconstruction + weight * balance * adversarial
    return total, balance, torch.autograd.grad(total, list(generator.parameters()))


def ours(generator, discriminator, features, x, weight, scale=1.0):
    image = generator(x)
    terms = losses(discriminator, features, image, x)
    total, balance = adaptive_sum(image, *terms, generator[-1].weight, weight, scale)
    return total, balance, torch.autograd.grad(total * scale, list(generator.parameters()))


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_equals_the_public_formula(scale):
    parts, x = networks()
    total, balance, gradients = ours(*parts, x, 0.8, torch.tensor(scale, dtype=torch.float64))
    expected = public(*parts, x, 0.8)
    torch.testing.assert_close((total.detach(), balance), (expected[0].detach(), expected[1]))
    torch.testing.assert_close([gradient / scale for gradient in gradients], list(expected[2]))


class Counting(TorchDispatchMode):
    """Counts convolutions' backward passes by the shape of their weights."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            shape, mask = tuple(args[2].shape), args[-1]
            # The gradients of the input alone, and of weights.
            key = (shape, "input" if mask[0] else "weights")
            self.counts[key] = self.counts.get(key, 0) + 1
        return function(*args, **(kwargs or {}))


def test_each_network_is_run_backward_once():
    parts, x = networks()
    with Counting() as one:
        ours(*parts, x, 0.8)
    with Counting() as three:
        public(*parts, x, 0.8)
    inputs = {shape: count for (shape, kind), count in one.counts.items() if kind == "input"}
    shapes = {"last": (1, 4, 3, 3), "discriminator": [(5, 1, 4, 4), (1, 5, 3, 3)], "features": (6, 1, 3, 3)}
    assert inputs == {shapes["last"]: 1, **dict.fromkeys(shapes["discriminator"], 1), shapes["features"]: 1}
    # Of the last layer the gradient of the weights alone, twice.
    assert one.counts[shapes["last"], "weights"] == 2
    for shape in (*shapes["discriminator"], shapes["features"]):
        assert three.counts[shape, "input"] == 2


@pytest.mark.parametrize("vanishing", ["adversarial", "reconstruction", "both"])
def test_a_gradient_that_vanishes_gives_no_nan(vanishing):
    parts, x = networks(torch.float32)
    generator, discriminator, features = parts
    image = generator(x)
    reconstruction, adversarial = losses(discriminator, features, image, x)
    first = image.sum() * 0 if vanishing != "adversarial" else reconstruction
    second = image.sum() * 0 if vanishing != "reconstruction" else adversarial
    total, balance = adaptive_sum(image, first, second, generator[-1].weight)
    gradients = torch.autograd.grad(total, list(generator.parameters()))
    assert all(gradient.isfinite().all() for gradient in (total, balance, *gradients))
    # With nothing to balance, the weight is at its largest, or 0.
    assert float(balance) == 0.0 if vanishing != "adversarial" else 0 < float(balance) <= 1e4


def test_a_weak_discriminator_is_not_weighed_beyond_the_limit():
    parts, x = networks()
    generator, discriminator, features = parts
    image = generator(x)
    reconstruction, adversarial = losses(discriminator, features, image, x)
    _, balance = adaptive_sum(image, 1e5 * reconstruction, 1e-12 * adversarial, generator[-1].weight)
    assert float(balance) == 1e4


def test_half_precision_needs_the_scale():
    """Under float16 autocast, small gradients survive by the loss scale."""
    parts, x = networks(torch.float32)
    generator, discriminator, features = parts

    def halved(scale):
        with torch.autocast("cpu", torch.float16):
            image = generator(x).float()
            reconstruction, adversarial = losses(discriminator, features, image, x)
            _, balance = adaptive_sum(
                image, reconstruction * 1e-5, adversarial.float() * 1e-5, generator[-1].weight, 0.8, scale
            )
        return balance

    reference = public_weight(*parts, x, 1e-5)
    assert float(halved(torch.tensor(2.0**14))) == pytest.approx(float(reference), rel=0.02)
    assert abs(float(halved(1.0)) - float(reference)) > 0.05 * float(reference)


def public_weight(generator, discriminator, features, x, factor):
    reconstruction, adversarial = losses(discriminator, features, generator(x), x)
    last = generator[-1].weight
    first, second = (
        torch.autograd.grad(term * factor, last, retain_graph=True)[0].norm() for term in (reconstruction, adversarial)
    )
    return first / (second + 1e-4)
