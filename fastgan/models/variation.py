"""Networks that vary an image within its class, after DAGAN (Antoniou et al. 2017, arXiv:1711.04340).

The generator is a U-Net. Each layer on the way up is normalized by instances, with scales and shifts computed from z
(arXiv:1703.06868), so that z decides what is made of the same image. The discriminator sees an image beside the one
that it varies. Sizes are DCGAN's: 8, 16, 32, 64, ... and 28, 56, ... pixels a side.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.dcgan import levels
from fastgan.models.labels import LabelHead, Labels
from fastgan.nn import ConvBlock, ConvStack, LinearBlock, group_spectral_norms
from fastgan.nn.adaptive_instance_norm import adaptive_instance_norm
from fastgan.ops import bias_act, instance_norm_act

#: Feature maps grow with each halving, up to so many times the width.
_WIDEST = 4


class Up(nn.Module):
    """x [N, inputs, H, W], z [N, latent] → [N, outputs, 2·H, 2·W]."""

    def __init__(self, inputs: int, outputs: int, latent: int):
        super().__init__()
        self.layer = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
        self.style = nn.Linear(latent, 2 * outputs)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        scale, shift = self.style(z).chunk(2, 1)
        return bias_act(adaptive_instance_norm(self.layer(x), 1 + scale, shift), None, "leaky_relu")


class Generator(nn.Module):
    """Images [N, channels, H, W] and z [N, latent] → others of the same classes, of that shape, in [-1, 1].

    z: zeros where it is left out. width: feature maps at the full resolution. H, W: multiples of `multiple`.
    """

    scale = 1
    range = (-1.0, 1.0)

    def __init__(self, resolution: int, channels: int, latent: int, width: int):
        super().__init__()
        _, halvings = levels(resolution)
        self.channels = self.source_channels = self.out_channels = channels
        self.latent, self.multiple = latent, 1 << halvings
        #: For an exported file: z is an input beside the images.
        self.controls = (("z", 0.0, latent),)
        widths = [width * min(1 << i, _WIDEST) for i in range(halvings + 1)]
        self.start = ConvBlock(channels, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths))
        self.embed = nn.Linear(latent, widths[-1])
        # Into each layer on the way up goes what comes from below, and what was there on the way down.
        self.up = nn.ModuleList(Up(2 * b, a, latent) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True))
        self.to_image = ConvBlock(2 * width, channels, 3, padding=1, act="tanh")

    def forward(self, source: Tensor, z: Tensor | None = None) -> Tensor:
        if z is None:
            z = source.new_zeros(len(source), self.latent)
        skips = [self.start(source)]
        for down in self.down:
            skips.append(instance_norm_act(down(skips[-1]), "leaky_relu"))
        x = skips[-1] + self.embed(z)[:, :, None, None]
        for up in self.up:
            x = up(torch.cat([x, skips.pop()], 1), z)
        return self.to_image(torch.cat([x, skips.pop()], 1))


class Discriminator(nn.Module):
    """Images and those that they vary, both [N, channels, side, side], → logits [N].

    source: with `classes` also the labels, as one-hot channels behind those of the image. norm: "none" or "spectral".
    """

    def __init__(self, resolution: int, channels: int, width: int, norm: str, labels: Labels):
        super().__init__()
        side, halvings = levels(resolution)
        self.source_channels, self.classes = channels, labels.classes
        widths = [2 * channels, *(width * min(1 << i, _WIDEST) for i in range(halvings))]
        self.blocks = ConvStack(*(ConvBlock(a, b, 4, stride=2, padding=1, norm=norm) for a, b in pairwise(widths)))
        features = widths[-1] * side * side
        self.to_logit = LinearBlock(features, 1, norm=norm, act="linear")
        self.head = LabelHead(labels, features, norm)
        group_spectral_norms(self)

    def forward(self, image: Tensor, source: Tensor) -> Tensor:
        source, labels = source.split([self.source_channels, self.classes], 1)
        features = self.blocks(torch.cat([source, image], 1)).flatten(1)
        y = labels[:, :, 0, 0].argmax(1) if self.classes else None
        logits: Tensor = self.head(self.to_logit(features).flatten(), features, y)
        return logits


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    condition: str | None = None,
) -> tuple[Generator, Discriminator]:
    """A generator that varies images and its discriminator, which takes labels too where there are classes.

    condition: "projection" or None, which means it. Raises UsageError for sizes and options that are not supported.
    """
    if d_norm not in ("none", "spectral"):
        raise UsageError(f"d_norm: variation supports none and spectral, got {d_norm!r}")
    labels = Labels.create("variation", classes, condition, ("projection",))
    return Generator(resolution, channels, latent, width), Discriminator(resolution, channels, width, d_norm, labels)
