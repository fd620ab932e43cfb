"""Discriminators of super-resolution against functions of their public state dicts, and the families with them."""

import pytest
import torch
from random_weights import randomized
from torch.nn import functional as F

from fastgan import models
from fastgan.errors import UsageError
from fastgan.models.esrgan import RRDBNet, SRVGGNetCompact, UNetDiscriminator, VGGDiscriminator
from fastgan.nn import fusion_report

SIZES = {"resolution": 32, "channels": 3, "latent": 1, "width": 4}


def conv(x, state, name, stride=1):
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, 1)


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def unet(x, state):
    """Wang et al. 2021, figure 6, layer by layer; weights of spectral norms divided by u · W v."""
    state = {name: value.double() for name, value in state.items()}
    for i in range(1, 9):
        weight, u, v = (state[f"conv{i}.weight_{part}"] for part in ("orig", "u", "v"))
        state[f"conv{i}.weight"] = weight / (u @ weight.flatten(1) @ v)
    maps = [leaky(conv(x, state, "conv0"))]
    for i in (1, 2, 3):
        maps.append(leaky(conv(maps[-1], state, f"conv{i}", 2)))
    y = maps.pop()
    for i in (4, 5, 6):
        size = [2 * side for side in y.shape[2:]]
        y = leaky(conv(F.interpolate(y, size, mode="bilinear", align_corners=False), state, f"conv{i}"))
        y = y + maps.pop()
    return conv(leaky(conv(leaky(conv(y, state, "conv7")), state, "conv8")), state, "conv9")


def vgg(x, state):
    state = {name: value.double() for name, value in state.items()}
    for level in range(3):
        for part in (0, 1):
            name = f"{level}_{part}"
            x = conv(x, state, f"conv{name}", 1) if part == 0 else conv(x, state, f"conv{name}", 2)
            if name != "0_0":
                mean, var, weight, bias = (
                    state[f"bn{name}.{what}"][:, None, None]
                    for what in ("running_mean", "running_var", "weight", "bias")
                )
                x = (x - mean) / (var + 1e-5).sqrt() * weight + bias
            x = leaky(x)
    x = leaky(F.linear(x.flatten(1), state["linear1.weight"], state["linear1.bias"]))
    return F.linear(x, state["linear2.weight"], state["linear2.bias"])


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_unet():
    network = randomized(UNetDiscriminator(3, 4))
    x = torch.rand(2, 3, 16, 24)
    assert_same(network(x), unet(x.double(), network.state_dict()))
    assert_same(network(x.contiguous(memory_format=torch.channels_last)), network(x))


def test_vgg():
    network = randomized(VGGDiscriminator(3, 4, 32))
    x = torch.rand(2, 3, 32, 32)
    assert_same(network(x), vgg(x.double(), network.state_dict()))
    assert_same(network(x.contiguous(memory_format=torch.channels_last)), network(x))


def test_names_and_numbers_equal_those_of_the_public_checkpoints():
    def size(network):
        return sum(parameter.numel() for parameter in network.parameters())

    with torch.device("meta"):
        assert size(UNetDiscriminator()) == 4_376_897
        assert size(VGGDiscriminator()) == 14_499_401
        assert size(VGGDiscriminator(side=256)) == 14_499_401 + 512 * 512 * (9 + 16) + 4 * 512
    names = set(UNetDiscriminator(3, 4).state_dict())
    assert names == {f"conv{i}.{what}" for i in (0, 9) for what in ("weight", "bias")} | {
        f"conv{i}.weight_{what}" for i in range(1, 9) for what in ("orig", "u", "v")
    }
    names = set(VGGDiscriminator(3, 4).state_dict())
    norms = {f"bn{i}_{j}" for i in range(5) for j in (0, 1)} - {"bn0_0"}
    assert names == {f"conv{i}_{j}.weight" for i in range(5) for j in (0, 1)} | {"conv0_0.bias"} | {
        f"{norm}.{what}"
        for norm in norms
        for what in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    } | {f"linear{i}.{what}" for i in (1, 2) for what in ("weight", "bias")}


def test_their_layers_run_fused():
    """Each convolution of the U-Net with its activation as one op, all spectral norms as one group."""
    report = fusion_report(UNetDiscriminator(3, 4))
    assert report[""].reason == "9 activations called in its forward, 9 as one op with the layer before"
    assert all("spectral norm grouped" in report[f"conv{i}"].reason for i in range(1, 9))


@pytest.mark.parametrize(("name", "kind"), [("esrgan", RRDBNet), ("compact", SRVGGNetCompact)])
@pytest.mark.parametrize("discriminator", ["unet", "vgg"])
def test_families(name, kind, discriminator):
    options = {"growth": 2} if name == "esrgan" else {}
    generator, other = models.build(name, **SIZES, scale=2, blocks=1, discriminator=discriminator, d_width=8, **options)
    assert isinstance(generator, kind)
    assert (generator.scale, generator.source_channels, generator.range) == (2, 3, (0.0, 1.0))
    assert isinstance(other, {"unet": UNetDiscriminator, "vgg": VGGDiscriminator}[discriminator])
    assert other.arguments["width"] == 8
    images = generator(torch.rand(2, 3, 16, 16))
    assert images.shape == (2, 3, 32, 32)
    logits = other(images)
    assert logits.shape == ((2, 1, 32, 32) if discriminator == "unet" else (2, 1))
    logits.square().mean().backward()
    assert all(weight.grad is not None for weight in generator.parameters())
    # The weights of a plain network fit: fusing changes no name.
    plain = kind(2, 3, 4, **options, blocks=1)
    assert list(plain.state_dict()) == list(generator.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 3}, "scale: expected 1, 2 or 4, got 3"),
        ({"blocks": 0}, "blocks: expected a number >= 1, got 0"),
        ({"growth": 0}, "growth: expected a number >= 1, got 0"),
        ({"d_width": -4}, "width: expected a number >= 1, got -4"),
        ({"discriminator": "patch"}, "discriminator: expected one of unet, vgg, got 'patch'"),
        ({"resolution": 36}, "resolution: the U-Net discriminator supports multiples of 8, got 36"),
        ({"resolution": 30}, "resolution: expected a multiple of the scale 4, got 30"),
        ({"resolution": 24, "discriminator": "vgg"}, "resolution: the VGG discriminator supports 8, 16, .*, got 24"),
        ({"classes": 3}, "condition: esrgan makes images of images and takes no labels, got 3 classes"),
        ({"d_norm": "batch"}, "d_norm: the discriminators of esrgan have norms of their own .*, got 'batch'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        models.build("esrgan", **SIZES | {"blocks": 1} | options)


def test_bad_images():
    with pytest.raises(UsageError, match=r"x: expected images \[N, 3, H, W\] with H and W in multiples of 8, got"):
        UNetDiscriminator(3, 4)(torch.rand(1, 3, 12, 8))
    with pytest.raises(UsageError, match=r"x: expected images \[N, 3, 32, 32\], got \[1, 3, 64, 64\]"):
        VGGDiscriminator(3, 4, 32)(torch.rand(1, 3, 64, 64))
