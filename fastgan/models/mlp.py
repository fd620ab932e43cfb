"""Fully connected networks for small images, in four variants.

- "deep": hidden layers of width, 2·width and 4·width units; batch norm in the generator, leaky ReLU.
- "original": Goodfellow et al. 2014 (arXiv:1406.2661), as the authors' code for MNIST: z of 100 numbers, two hidden
  layers of 1200 ReLUs (width), and a discriminator of two maxout layers of width/5 units with 5 pieces each, with
  dropout. Images here are in [-1, 1], so the generator ends in tanh; theirs ends in a sigmoid.
- "minimal": the networks of introductory tutorials, without norms: z of 64 numbers → 256 (width) → 512 → 784; the
  discriminator mirrors it.
- "linear": G(z) = a·z + b for scalar data, as images of one pixel; the discriminator has a hidden layer of width units.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import ConditionalBlock, LabelHead, Labels, apply_blocks
from fastgan.nn import LinearBlock, Maxout, MinibatchDiscrimination, group_spectral_norms

CONDITIONS = ("concat", "projection", "auxiliary")
VARIANTS = ("deep", "original", "minimal", "linear")
PIECES = 5  # linear functions in a maxout unit of "original"


class Generator(nn.Module):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side] in [-1, 1].

    hidden: units of each hidden layer. batch_norm: in all hidden layers but the first; with labels in the norms, all
    hidden layers have a conditional batch norm.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        latent: int,
        hidden: tuple[int, ...],
        labels: Labels,
        *,
        batch_norm: bool = False,
        act: str = "leaky_relu",
    ):
        super().__init__()
        self.latent, self.image_shape = latent, (channels, resolution, resolution)
        self.labels, self.classes = labels, labels.classes
        sizes = (latent + labels.extra_latents, *hidden)
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(zip(sizes, hidden, strict=False)):
            if labels.norm_features:
                layer = nn.Linear(inputs, outputs, bias=False)
                layers.append(ConditionalBlock(layer, outputs, labels.norm_features, act))
            else:
                layers.append(LinearBlock(inputs, outputs, norm="batch" if batch_norm and i else "none", act=act))
        self.layers = nn.Sequential(*layers, LinearBlock(hidden[-1], prod(self.image_shape), act="tanh"))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z, c = self.labels.generator_inputs(z, y)
        return apply_blocks(self.layers, z, c).unflatten(1, self.image_shape)


class Discriminator(nn.Module):
    """Images [N, channels, side, side] (and labels y [N]) → logits [N].

    With auxiliary=True: images → logits [N] and class logits [N, classes]. inputs: numbers of a flattened image.
    hidden: units of each hidden layer. kernels: size of the minibatch discrimination before the last layer; 0 omits
    it. layers: the hidden layers; None makes linear layers with leaky ReLU.
    """

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        norm: str,
        labels: Labels,
        kernels: int = 0,
        layers: list[nn.Module] | None = None,
    ):
        super().__init__()
        self.labels, self.classes, self.auxiliary = labels, labels.classes, labels.auxiliary
        end_norm = "spectral" if norm == "spectral" else "none"  # of the first and the last layer
        sizes = (inputs + labels.extra_channels, *hidden)
        if layers is None:
            pairs = enumerate(zip(sizes, hidden, strict=False))
            layers = [LinearBlock(*pair, norm=norm if i else end_norm) for i, pair in pairs]
        self.layers = nn.Sequential(*layers, LinearBlock(hidden[-1] + kernels, 1, norm=end_norm, act="linear"))
        self.compare = MinibatchDiscrimination(hidden[-1], kernels) if kernels else nn.Identity()
        self.head = LabelHead(labels, hidden[-1], end_norm)
        group_spectral_norms(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        features = self.labels.concat_image(x.flatten(1), y)
        *hidden, last = self.layers
        for layer in hidden:
            features = layer(features)
        return self.head(last(self.compare(features)).flatten(), features, y)


class LinearGenerator(nn.Module):
    """z [N, 1] → a·z + b as images [N, 1, 1, 1]; the range is not limited. a and b are trained."""

    latent, image_shape, classes = 1, (1, 1, 1), 0

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        return (self.a * z + self.b)[:, :, None, None]


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    variant: str = "deep",
    condition: str | None = None,
    minibatch_discrimination: int = 0,
) -> tuple[nn.Module, Discriminator]:
    """A generator and a discriminator of one of VARIANTS.

    condition: one of `labels.CONDITIONS`; None means "concat". minibatch_discrimination: number of kernels before the
    discriminator's last layer (Salimans et al. 2016, arXiv:1606.03498); 0 omits it. Raises UsageError for options that
    the variant does not support.
    """
    if variant not in VARIANTS:
        raise UsageError(f"variant: mlp supports {', '.join(VARIANTS)}, got {variant!r}")
    labels = Labels.create("mlp", classes, condition, CONDITIONS)
    if labels.norm_features and variant != "deep":
        raise UsageError(
            f"condition: projection needs batch norms in the generator, and variant {variant!r} has none; use concat"
        )
    if variant == "linear":
        return _linear(resolution, channels, latent, width, labels, d_norm, minibatch_discrimination)
    pixels = channels * resolution**2
    if variant == "original":
        if d_norm != "none":
            raise UsageError(
                f"d_norm: the original discriminator has maxout layers and no norm, got {d_norm!r}; use none"
            )
        if width % PIECES:
            raise UsageError(f"width: the original discriminator needs a multiple of its {PIECES} pieces, got {width}")
        units = width // PIECES
        maxouts = [
            nn.Dropout(0.2), Maxout(pixels + labels.extra_channels, units, PIECES),
            nn.Dropout(0.5), Maxout(units, units, PIECES), nn.Dropout(0.5),
        ]  # fmt: skip
        discriminator = Discriminator(pixels, (units, units), d_norm, labels, minibatch_discrimination, maxouts)
        return Generator(resolution, channels, latent, (width, width), labels, act="relu"), discriminator
    hidden = (width, 2 * width, 4 * width) if variant == "deep" else (width, 2 * width)
    generator = Generator(resolution, channels, latent, hidden, labels, batch_norm=variant == "deep")
    return generator, Discriminator(pixels, hidden[::-1], d_norm, labels, minibatch_discrimination)


def _linear(
    resolution: int, channels: int, latent: int, width: int, labels: Labels, d_norm: str, kernels: int
) -> tuple[LinearGenerator, Discriminator]:
    for name, value in (("resolution", resolution), ("channels", channels), ("latent", latent)):
        if value != 1:
            raise UsageError(f"{name}: the linear variant works on scalars, expected 1, got {value}")
    if labels.classes:
        raise UsageError(f"classes: the linear variant is unconditional, expected 0, got {labels.classes}")
    return LinearGenerator(), Discriminator(1, (width,), d_norm, labels, kernels)
