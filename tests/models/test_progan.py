"""Progressive growing: stages, fading, checkpoints, and the generator compared with the paper."""

import copy

import pytest
import torch
from torch.nn import functional as F

from fastgan import models
from fastgan.errors import UsageError


def pair(resolution=16, **options):
    torch.manual_seed(0)
    return models.build("progan", resolution=resolution, channels=3, latent=8, width=8, **options)


def test_image_sizes_of_the_stages():
    generator, discriminator = pair(32)
    assert (generator.stage, generator.alpha, generator.stages) == (3, 1.0, 4)
    for stage, side in enumerate((4, 8, 16, 32)):
        for network in (generator, discriminator):
            network.grow(stage)
        assert generator.image_shape == (3, side, side)
        images = generator(torch.randn(4, 8))
        assert images.shape == (4, 3, side, side)
        assert discriminator(images).shape == (4,)
    with pytest.raises(
        UsageError, match="x: expected images of 32×32, as of the discriminator's current stage, got 16×16"
    ):
        discriminator(torch.zeros(4, 3, 16, 16))
    with pytest.raises(UsageError, match=r"stage: expected a number from 0 \(4×4\) to 3, got 4"):
        generator.grow(4)
    with pytest.raises(UsageError, match="alpha: expected a number from 0 to 1, got 2"):
        generator.alpha = 2


def test_fading_interpolates_from_the_previous_stage():
    """At alpha 0 images are the upsampled ones of the previous stage, and the discriminator uses pooled images."""
    generator, discriminator = pair()
    z, x = torch.randn(4, 8), torch.randn(4, 3, 16, 16)
    generator.grow(1)
    discriminator.grow(1)
    previous_images, previous_logits = generator(z), discriminator(F.avg_pool2d(x, 2))
    images, logits = {}, {}
    for alpha in (0.0, 0.25, 1.0):
        for network in (generator, discriminator):
            network.grow(2, alpha)
        images[alpha], logits[alpha] = generator(z), discriminator(x)
    torch.testing.assert_close(images[0.0], F.interpolate(previous_images, scale_factor=2))
    torch.testing.assert_close(logits[0.0], previous_logits)
    torch.testing.assert_close(images[0.25], 0.75 * images[0.0] + 0.25 * images[1.0])
    assert (logits[0.25] - logits[0.0]).abs().min() > 1e-6
    assert (logits[0.25] - logits[1.0]).abs().min() > 1e-6


def test_the_first_stage_does_not_fade():
    generator, _ = pair()
    generator.grow(0, 0.5)
    assert not generator.fading
    assert generator(torch.randn(4, 8)).shape == (4, 3, 4, 4)


def test_only_layers_of_the_current_stages_get_gradients():
    generator, discriminator = pair()
    for network in (generator, discriminator):
        network.grow(1, 0.5)
    discriminator(generator(torch.randn(4, 8))).sum().backward()
    trained = {name for net in (generator, discriminator) for name, p in net.named_parameters() if p.grad is not None}
    assert {"to_image.0.weight", "to_image.1.weight", "from_image.0.weight", "from_image.1.weight"} <= trained
    assert not {name for name in trained if name.startswith(("to_image.2", "from_image.2"))}
    assert {name.split(".")[1] for name in trained if name.startswith("blocks")} == {"0", "1"}
    assert all(p.grad is None for p in discriminator.blocks[1].parameters())


def test_checkpoints_and_copies_keep_the_stage():
    generator, _ = pair()
    generator.grow(1, 0.25)
    fresh, _ = pair()
    fresh.load_state_dict(generator.state_dict())
    z = torch.randn(4, 8)
    for other in (fresh, copy.deepcopy(generator)):
        assert (other.stage, other.alpha, other.fading) == (1, 0.25, True)
        torch.testing.assert_close(other(z), generator(z))
        other.grow(2)
        assert generator.stage == 1
    with pytest.raises(RuntimeError, match="Missing"):
        fresh.load_state_dict({})


def test_the_generator_equals_plain_pytorch_from_the_paper():
    """Table 2 at 8×8: a 4×4 convolution, 3×3, upsampling, two 3×3, with pixel norms and scaled weights."""
    generator, _ = pair(8)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = generator.state_dict()

    def norm(x):
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()

    def convolve(name, x, gain=2**0.5):
        weight = state[f"{name}.weight"]
        scale = gain / (weight[0].numel() ** 0.5)
        return F.conv2d(x, weight * scale, state[f"{name}.bias"], padding=weight.shape[2] // 2)

    def layer(name, x):
        return norm(F.leaky_relu(convolve(name, x), 0.2))

    z = torch.randn(5, 8)
    weight = state["blocks.0.weight"] * (2**0.5 / 4 / 8**0.5)
    x = torch.einsum("nl,lchw->nchw", norm(z), weight) + state["blocks.0.bias"][:, None, None]
    x = layer("blocks.0.conv", norm(F.leaky_relu(x, 0.2)))
    x = layer("blocks.1.conv1", layer("blocks.1.conv0", F.interpolate(x, scale_factor=2)))
    torch.testing.assert_close(generator(z), convolve("to_image.1", x, gain=1), rtol=1e-4, atol=1e-5)
