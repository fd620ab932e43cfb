"""Fully connected pairs for small images, and the pair on a line.

"deep": batch norm in the generator, leaky ReLU, through width, 2·width and 4·width units.
"original": Goodfellow et al. 2014 (arXiv:1406.2661) as its authors' code has it for MNIST: z of 100 numbers, two hidden
layers of 1200 ReLUs (width), and a discriminator of two maxout layers of width/5 units with 5 pieces each, with dropout. Our
images are in [-1, 1], so that the generator ends in tanh where theirs in a sigmoid.
"minimal": the pair of teaching texts, without norms: z of 64 numbers → 256 (width) → 512 → 784, and back.
"line": G(z) = a·z + b on single numbers, images of one pixel, with a discriminator of one hidden layer of `width` units.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import ConditionalBlock, LabelHead, Labels, through
from fastgan.nn import LinearBlock, Maxout, MinibatchDiscrimination, group_spectral_norms

CONDITIONS = ("concat", "projection", "auxiliary")
VARIANTS = ("deep", "original", "minimal", "line")
PIECES = 5


class Generator(nn.Module):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side] in [-1, 1], through `hidden` units a layer.

    batch_norm: in all hidden layers but the first; in all of them where labels enter there.
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
        sizes = (latent + labels.beside_latent, *hidden)
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(zip(sizes, hidden, strict=False)):
            if labels.into_norms:
                layer = nn.Linear(inputs, outputs, bias=False)
                layers.append(ConditionalBlock(layer, outputs, labels.into_norms, act))
            else:
                layers.append(LinearBlock(inputs, outputs, norm="batch" if batch_norm and i else "none", act=act))
        self.layers = nn.Sequential(*layers, LinearBlock(hidden[-1], prod(self.image_shape), act="tanh"))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z, c = self.labels.generate(z, y)
        return through(self.layers, z, c).unflatten(1, self.image_shape)


class Discriminator(nn.Module):
    """Images [N, channels, side, side] (and labels y [N]) → logits [N], through `hidden` units a layer.

    kernels: of the minibatch discrimination before the last layer; 0 for none. layers: the hidden layers where they are
    other than leaky ReLUs. With auxiliary=True, images → logits [N] and class logits [N, classes].
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
        edge = "spectral" if norm == "spectral" else "none"
        sizes = (inputs + labels.beside_image, *hidden)
        if layers is None:
            pairs = enumerate(zip(sizes, hidden, strict=False))
            layers = [LinearBlock(*pair, norm=norm if i else edge) for i, pair in pairs]
        self.layers = nn.Sequential(*layers, LinearBlock(hidden[-1] + kernels, 1, norm=edge, act="linear"))
        self.compare = MinibatchDiscrimination(hidden[-1], kernels) if kernels else nn.Identity()
        self.head = LabelHead(labels, hidden[-1], edge)
        group_spectral_norms(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        features = self.labels.judge(x.flatten(1), y)
        *hidden, last = self.layers
        for layer in hidden:
            features = layer(features)
        return self.head(last(self.compare(features)).flatten(), features, y)


class Line(nn.Module):
    """z [N, 1] → a·z + b as images [N, 1, 1, 1], in no range."""

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
    """variant: one of VARIANTS. condition: see `labels.CONDITIONS`; "concat" if left out."""
    if variant not in VARIANTS:
        raise UsageError(f"variant: mlp takes {', '.join(VARIANTS)}, got {variant!r}")
    labels = Labels.of("mlp", classes, condition, CONDITIONS)
    if labels.into_norms and variant != "deep":
        raise UsageError(
            f"condition: projection needs batch norms to put labels into, {variant!r} has none; use concat"
        )
    if variant == "line":
        return _line(resolution, channels, latent, width, labels, d_norm, minibatch_discrimination)
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
            nn.Dropout(0.2), Maxout(pixels + labels.beside_image, units, PIECES),
            nn.Dropout(0.5), Maxout(units, units, PIECES), nn.Dropout(0.5),
        ]  # fmt: skip
        discriminator = Discriminator(pixels, (units, units), d_norm, labels, minibatch_discrimination, maxouts)
        return Generator(resolution, channels, latent, (width, width), labels, act="relu"), discriminator
    hidden = (width, 2 * width, 4 * width) if variant == "deep" else (width, 2 * width)
    generator = Generator(resolution, channels, latent, hidden, labels, batch_norm=variant == "deep")
    return generator, Discriminator(pixels, hidden[::-1], d_norm, labels, minibatch_discrimination)


def _line(
    resolution: int, channels: int, latent: int, width: int, labels: Labels, d_norm: str, kernels: int
) -> tuple[Line, Discriminator]:
    for name, value in (("resolution", resolution), ("channels", channels), ("latent", latent)):
        if value != 1:
            raise UsageError(f"{name}: the pair on a line works on single numbers, expected 1, got {value}")
    if labels.classes:
        raise UsageError(f"classes: the pair on a line takes no labels, expected 0, got {labels.classes}")
    return Line(), Discriminator(1, (width,), d_norm, labels, kernels)
