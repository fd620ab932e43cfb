"""Networks of image translation: against functions of their public state dicts, written with torch.nn.functional."""

import itertools

import pytest
import torch
from random_weights import randomized
from torch.nn import functional as F

import fastgan
from fastgan import models
from fastgan.errors import UsageError
from fastgan.models.translation import (
    MultiScaleDiscriminator,
    PatchDiscriminator,
    PixelDiscriminator,
    ResNetGenerator,
    UNetGenerator,
)


class Plain:
    """Layers by the names of their weights in a state dict."""

    def __init__(self, state, norm):
        self.state, self.norm = {name: value.double() for name, value in state.items()}, norm

    def conv(self, x, name, stride=1, padding=0):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride, padding)

    def up(self, x, name, kernel=4):
        bias = self.state.get(f"{name}.bias")
        return F.conv_transpose2d(x, self.state[f"{name}.weight"], bias, 2, 1, output_padding=kernel % 2)

    def normalize(self, x, name):
        if self.norm == "batch":
            mean, var = (self.state[f"{name}.running_{what}"][:, None, None] for what in ("mean", "var"))
            weight, bias = (self.state[f"{name}.{what}"][:, None, None] for what in ("weight", "bias"))
            return (x - mean) / (var + 1e-5).sqrt() * weight + bias
        if self.norm == "instance":
            return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        return x

    def unet(self, x, levels):
        x = self.conv(x, "model.model.0", 2, 1)
        y = self.level(x, "model.model.1.model", levels - 1)
        return self.up(y.relu(), "model.model.3").tanh()

    def level(self, x, name, left):
        skip = F.leaky_relu(x, 0.2)
        y = self.conv(skip, f"{name}.1", 2, 1)
        if left == 1:
            y = self.normalize(self.up(y.relu(), f"{name}.3"), f"{name}.4")
        else:
            y = self.level(self.normalize(y, f"{name}.2"), f"{name}.3.model", left - 1)
            y = self.normalize(self.up(y.relu(), f"{name}.5"), f"{name}.6")
        return torch.cat([skip, y], 1)

    def resnet(self, x, blocks, halvings, padding="reflect", second=5):
        def padded(x, n):
            return F.pad(x, (n,) * 4, padding if padding != "zeros" else "constant")

        x = self.conv(F.pad(x, (3,) * 4, "reflect"), "model.1")
        x = self.normalize(x, "model.2").relu()
        for i in range(halvings):
            x = self.normalize(self.conv(x, f"model.{4 + 3 * i}", 2, 1), f"model.{5 + 3 * i}").relu()
        place = 4 + 3 * halvings
        first = 0 if padding == "zeros" else 1
        for _ in range(blocks):
            name = f"model.{place}.conv_block"
            y = self.normalize(self.conv(padded(x, 1), f"{name}.{first}"), f"{name}.{first + 1}").relu()
            x = x + self.normalize(self.conv(padded(y, 1), f"{name}.{second}"), f"{name}.{second + 1}")
            place += 1
        for _ in range(halvings):
            x = self.normalize(self.up(x, f"model.{place}", 3), f"model.{place + 1}").relu()
            place += 3
        return self.conv(F.pad(x, (3,) * 4, "reflect"), f"model.{place + 1}").tanh()

    def patches(self, x, layers):
        x = F.leaky_relu(self.conv(x, "model.0", 2, 1), 0.2)
        for i in range(layers):
            x = self.conv(x, f"model.{2 + 3 * i}", 2 if i + 1 < layers else 1, 1)
            x = F.leaky_relu(self.normalize(x, f"model.{3 + 3 * i}"), 0.2)
        return self.conv(x, f"model.{2 + 3 * layers}", 1, 1)

    def pixels(self, x):
        x = self.conv(F.leaky_relu(self.conv(x, "net.0"), 0.2), "net.2")
        return self.conv(F.leaky_relu(self.normalize(x, "net.3"), 0.2), "net.5")

    def scales(self, x, scales, layers):
        for scale in reversed(range(scales)):
            y = F.leaky_relu(self.conv(x, f"scale{scale}_layer0.0", 2, 2), 0.2)
            for i in range(1, layers + 1):
                y = self.conv(y, f"scale{scale}_layer{i}.0", 2 if i < layers else 1, 2)
                y = F.leaky_relu(self.normalize(y, f"scale{scale}_layer{i}.1"), 0.2)
            yield self.conv(y, f"scale{scale}_layer{layers + 1}.0", 1, 2)
            ones = F.avg_pool2d(torch.ones_like(x), 3, 2, 1)
            x = F.avg_pool2d(x, 3, 2, 1) / ones


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


NORMS = ("batch", "instance", "none")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("levels", [5, 6])
def test_unet(norm, levels):
    network = randomized(UNetGenerator(2, 3, levels, 4, norm))
    x = torch.randn(2, 2, 64, 1 << (levels + 1))
    assert_same(network(x), Plain(network.state_dict(), norm).unet(x.double(), levels))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("padding", "dropout", "second"), [("reflect", False, 5), ("replicate", True, 6), ("zeros", False, 3)]
)
def test_resnet(norm, padding, dropout, second):
    network = randomized(ResNetGenerator(2, 3, 2, 4, norm, dropout, padding))
    x = torch.randn(2, 2, 24, 16)
    assert_same(network(x), Plain(network.state_dict(), norm).resnet(x.double(), 2, 2, padding, second))


def test_global_generator():
    network = randomized(ResNetGenerator(1, 3, 1, 2, "batch", downsamplings=4, bias=True))
    assert "model.4.bias" in network.state_dict()
    x = torch.randn(1, 1, 32, 48)
    assert_same(network(x), Plain(network.state_dict(), "batch").resnet(x.double(), 1, 4))


@pytest.mark.parametrize("norm", NORMS)
def test_discriminators(norm):
    x, source = torch.randn(2, 3, 64, 48), torch.randn(2, 2, 64, 48)
    both = torch.cat([source, x], 1).double()
    for layers in (1, 3, 4):
        network = randomized(PatchDiscriminator(3, 2, layers, 4, norm))
        assert_same(network(x, source), Plain(network.state_dict(), norm).patches(both, layers))
    network = randomized(PixelDiscriminator(3, 2, 4, norm))
    assert_same(network(x, source), Plain(network.state_dict(), norm).pixels(both))
    network = randomized(MultiScaleDiscriminator(3, 2, 3, 2, 4, norm))
    for found, expected in zip(network(x, source), Plain(network.state_dict(), norm).scales(both, 3, 2), strict=True):
        assert_same(found, expected)


def test_each_logit_sees_70_pixels():
    discriminator = randomized(PatchDiscriminator(1, width=2, norm="none"))
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    logits = discriminator(x)
    (gradient,) = torch.autograd.grad(logits[0, 0, 7, 7], x)
    rows = gradient[0, 0].abs().sum(1).nonzero()
    assert rows.max() - rows.min() + 1 == 70


def test_dropout_is_noise_in_training_mode_alone():
    generator = randomized(UNetGenerator(1, 1, 7, 2))
    x = torch.randn(1, 1, 128, 128)
    assert torch.equal(generator(x), generator(x))
    generator.train()
    assert not torch.equal(generator(x), generator(x))


SIZES = {"resolution": 256, "channels": 3, "latent": 1, "width": 64}


def test_families_have_the_sizes_of_the_papers():
    def count(network):
        return sum(value.numel() for value in network.parameters())

    with torch.device("meta"):
        generator, discriminator = models.build("pix2pix", **SIZES)
        assert (count(generator), count(discriminator)) == (54_413_955, 2_768_705)
        assert (generator.levels, generator.multiple, discriminator.source_channels) == (8, 256, 3)
        generator, discriminator = models.build("pix2pix", **SIZES, generator="resnet", norm="instance")
        assert (count(generator), generator.multiple) == (11_378_179, 4)
        assert count(models.build("pix2pixhd", **SIZES, source_channels=36)[0]) == 182_546_755


def test_options_of_the_families():
    small = SIZES | {"resolution": 64, "width": 4}
    for resolution, levels in ((32, 5), (64, 6), (96, 5), (128, 7), (512, 8)):
        with torch.device("meta"):
            assert models.build("pix2pix", **small | {"resolution": resolution})[0].levels == levels
    generator, discriminator = models.build(
        "pix2pix", **small, source_channels=1, generator="resnet", blocks=2, discriminator="multi-scale", scales=2,
        layers=2, d_width=6, norm="none", dropout=False,
    )  # fmt: skip
    assert generator.arguments == {
        "channels": 1, "out_channels": 3, "blocks": 2, "width": 4, "norm": "none", "dropout": False,
        "padding": "reflect", "downsamplings": 2, "bias": False,
    }  # fmt: skip
    assert discriminator.arguments == {
        "channels": 3, "source_channels": 1, "scales": 2, "layers": 2, "width": 6, "norm": "none",
    }  # fmt: skip
    assert isinstance(models.build("pix2pix", **small, discriminator="pixel")[1], PixelDiscriminator)
    generator, discriminator = models.build("pix2pixhd", **small, downsamplings=3, blocks=1, scales=2, layers=1)
    assert (generator.multiple, discriminator.scales, discriminator.layers) == (8, 2, 1)


def test_misfits_of_the_families():
    small = SIZES | {"resolution": 64, "width": 4}
    for family, options, sentence in (
        ("pix2pix", {"resolution": 100}, "resolution: the U-Net supports multiples of 32, got 100; the generator 'res"),
        ("pix2pix", {"resolution": 30, "generator": "resnet"}, "resolution: the ResNet supports multiples of 4"),
        ("pix2pix", {"generator": "vit"}, "generator: expected unet or resnet, got 'vit'"),
        ("pix2pix", {"discriminator": "image"}, "discriminator: expected patch, pixel, multi-scale, got 'image'"),
        ("pix2pix", {"classes": 3}, "condition: pix2pix makes images of images and takes no labels, got 3 classes"),
        ("pix2pixhd", {"d_norm": "spectral"}, "d_norm: both networks of pix2pixhd have the norm of its option `norm`"),
        ("pix2pixhd", {"resolution": 72}, "resolution: pix2pixhd supports multiples of 16 from 32, got 72"),
    ):
        with pytest.raises(UsageError, match=sentence):
            models.build(family, **small | options)


def test_wrong_arguments():
    for make, sentence in (
        (lambda: UNetGenerator(levels=4), "levels: expected a number >= 5, got 4"),
        (lambda: UNetGenerator(norm="group"), "norm: expected one of batch, instance, none, got 'group'"),
        (lambda: ResNetGenerator(blocks=0), "blocks: expected a number >= 1, got 0"),
        (lambda: ResNetGenerator(padding="zero"), "padding: expected one of reflect, replicate, zeros, got 'zero'"),
        (lambda: PatchDiscriminator(width=0), "width: expected a number >= 1, got 0"),
        (lambda: PatchDiscriminator(source_channels=-1), "source_channels: expected a number >= 0, got -1"),
        (lambda: PatchDiscriminator(1)(torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)), "source: expected None"),
        (
            lambda: PatchDiscriminator(1, 2)(torch.zeros(1, 1, 32, 32)),
            r"source: expected images \[N, 2, H, W\], got None",
        ),
    ):
        with pytest.raises(UsageError, match=sentence):
            make()


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_gradients_of_two_orders(norm):
    """R1 of a discriminator, and the gradient of a generator's weights, against plain functions in double."""
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    for network, run in (
        (PatchDiscriminator(3, 0, 2, 4, norm), lambda plain, x: plain.patches(x, 2)),
        (ResNetGenerator(3, 3, 1, 4, norm), lambda plain, x: plain.resnet(x, 1, 2)),
        (UNetGenerator(3, 3, 5, 4, norm), lambda plain, x: plain.unet(x, 5)),
    ):
        network = randomized(network).double()
        plain = Plain(network.state_dict(), norm)
        plain.state = {name: value.detach().requires_grad_() for name, value in plain.state.items()}
        found = []
        for y, weights in ((network(x), dict(network.named_parameters())), (run(plain, x), plain.state)):
            (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
            names = [name for name in weights if name.endswith("weight")]
            values = [weights[name] for name in names]
            found.append(
                {"x": first}
                | dict(zip(names, torch.autograd.grad(first.square().sum() + y.square().sum(), values), strict=True))
            )
        assert found[0].keys() == found[1].keys()
        for name, want in found[1].items():
            assert (found[0][name] - want).norm() <= 1e-9 * want.norm(), name


def test_a_pair_trains():
    torch.manual_seed(0)
    source = torch.rand(4, 3, 32, 32) * 2 - 1
    generator, discriminator = models.build("pix2pix", **SIZES | {"resolution": 32, "width": 2})
    config = fastgan.Config.from_flags(steps=3, l1_weight=100.0, compile="off")
    trainer = fastgan.Trainer(generator, discriminator, config=config)
    before = {name: value.clone() for name, value in generator.named_parameters()}
    trainer.fit(itertools.repeat((source, source.flip(1))))
    assert all(not torch.equal(before[name], value) for name, value in generator.named_parameters())
    images = trainer.ema.module(source)
    assert images.shape == source.shape
    assert images.abs().max() <= 1
