"""The convolutional pair of Radford, Metz and Chintala 2016 (arXiv:1511.06434), at any power of two and from 28 up.

Strided convolutions, no pooling, batch norm and ReLU in the generator, leaky ReLU with slope 0.2 in the discriminator, weights
from N(0, 0.02). The paper's is width 128 at 64×64: 1024, 512, 256 and 128 channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import ConditionalBlock, LabelHead, Labels, through
from fastgan.nn import ConvBlock, ConvStack, LinearBlock, MinibatchDiscrimination, group_spectral_norms

CONDITIONS = ("projection", "concat", "auxiliary")


def levels(resolution: int) -> tuple[int, int]:
    """(side of the smallest feature map, doublings up to the resolution): 28 → (7, 2), 32 → (4, 3), 64 → (4, 4)."""
    for side, least in ((4, 1), (7, 2)):
        doublings = (resolution // side).bit_length() - 1
        if doublings >= least and side << doublings == resolution:
            return side, doublings
    raise UsageError(f"resolution: dcgan needs 8, 16, 32, 64, ..., or 28, 56, ..., got {resolution}")


class Generator(nn.Module):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side] in [-1, 1].

    width: channels before the last layer.
    """

    def __init__(self, resolution: int, channels: int, latent: int, width: int, labels: Labels):
        super().__init__()
        side, doublings = levels(resolution)
        self.latent, self.image_shape = latent, (channels, resolution, resolution)
        self.labels, self.classes = labels, labels.classes
        widest = width << (doublings - 1)
        self.start = _up(latent + labels.beside_latent, widest, labels, side, 1, 0)
        self.blocks = nn.Sequential(
            *(_up(widest >> i, widest >> (i + 1), labels, 4, 2, 1) for i in range(doublings - 1))
        )
        self.to_image = ConvBlock(width, channels, 4, stride=2, padding=1, transposed=True, act="tanh")
        self.apply(_initialize)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z, c = self.labels.generate(z, y)
        x = z[:, :, None, None]
        x = self.start(x) if c is None else self.start(x, c)
        return self.to_image(through(self.blocks, x, c))


def _up(inputs: int, outputs: int, labels: Labels, kernel: int, stride: int, padding: int) -> nn.Module:
    if labels.into_norms:
        layer = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, bias=False)
        return ConditionalBlock(layer, outputs, labels.into_norms, "relu")
    return ConvBlock(inputs, outputs, kernel, stride=stride, padding=padding, transposed=True, norm="batch", act="relu")


class Discriminator(nn.Module):
    """Images [N, channels, side, side] (and labels y [N]) → logits [N]. Batch norm is left out of the first and the
    last layer. With auxiliary=True, images → logits [N] and class logits [N, classes]. kernels: of the minibatch
    discrimination before the last layer; 0 for none."""

    def __init__(self, resolution: int, channels: int, width: int, norm: str, labels: Labels, kernels: int = 0):
        super().__init__()
        side, doublings = levels(resolution)
        self.labels, self.classes, self.auxiliary = labels, labels.classes, labels.auxiliary
        edge = "spectral" if norm == "spectral" else "none"
        blocks = [ConvBlock(channels + labels.beside_image, width, 4, stride=2, padding=1, norm=edge)]
        for i in range(doublings - 1):
            blocks.append(ConvBlock(width << i, width << (i + 1), 4, stride=2, padding=1, norm=norm))
        self.blocks = ConvStack(*blocks)
        features = (width << (doublings - 1)) * side * side
        self.compare = MinibatchDiscrimination(features, kernels) if kernels else nn.Identity()
        self.to_logit = LinearBlock(features + kernels, 1, norm=edge, act="linear")
        self.head = LabelHead(labels, features, edge)
        self.apply(_initialize)
        group_spectral_norms(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        features = self.blocks(self.labels.judge(x, y)).flatten(1)
        return self.head(self.to_logit(self.compare(features)).flatten(), features, y)


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    condition: str | None = None,
    minibatch_discrimination: int = 0,
) -> tuple[Generator, Discriminator]:
    """Generator and discriminator with mirrored widths. condition: see `labels.CONDITIONS`; "projection" if left out."""
    labels = Labels.of("dcgan", classes, condition, CONDITIONS)
    return (
        Generator(resolution, channels, latent, width, labels),
        Discriminator(resolution, channels, width, d_norm, labels, minibatch_discrimination),
    )


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        # Under spectral norm the parameter is the parametrization's original, and `weight` is computed from it.
        for name, parameter in module.named_parameters():
            if name != "bias":
                nn.init.normal_(parameter, 0.0, 0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
        with torch.no_grad():
            module.weight.normal_(1.0, 0.02)
            module.bias.zero_()
