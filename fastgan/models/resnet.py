"""The residual networks of SNGAN and WGAN-GP, at 32×32, 64×64 and 128×128.

d_norm="spectral" gives SNGAN (Miyato et al. 2018, arXiv:1802.05957, tables 4 and 5). With "none" the discriminator has
no norm, for use with a gradient penalty (Gulrajani et al. 2017, arXiv:1704.00028, with 128 channels in both networks).
The papers' widths are 128 at 32×32 (256 in the generator) and 64 at 64×64 and 128×128, with z of 128 numbers. The
widths at 64×64 are those of the code of Miyato and Koyama.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import LabelHead, Labels
from fastgan.models.residual import DownBlock, UpBlock, check_norm
from fastgan.nn import ConvBlock, LinearBlock, group_spectral_norms, initialize
from fastgan.ops import bias_act

CONDITIONS = ("projection", "concat", "auxiliary")
#: resolution → channels as multiples of the width: at 4×4, and after each block of the generator.
UP = {32: (2, 2, 2, 2), 64: (16, 8, 4, 2, 1), 128: (16, 16, 8, 4, 2, 1)}
#: resolution → (multiples of the width after each block of the discriminator, number of blocks that halve the side)
DOWN = {32: ((1, 1, 1, 1), 2), 64: ((1, 2, 4, 8, 16), 5), 128: ((1, 2, 4, 8, 16, 16), 5)}


class Generator(nn.Module):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side] in [-1, 1]."""

    def __init__(self, resolution: int, channels: int, latent: int, width: int, labels: Labels):
        super().__init__()
        self.latent, self.image_shape = latent, (channels, resolution, resolution)
        self.labels, self.classes = labels, labels.classes
        sizes = [multiple * width for multiple in UP[resolution]]
        self.start = LinearBlock(latent + labels.extra_latents, sizes[0] * 16, act="linear")
        self.blocks = nn.ModuleList(
            UpBlock(inputs, outputs, labels.norm_features) for inputs, outputs in pairwise(sizes)
        )
        self.norm = nn.BatchNorm2d(sizes[-1])
        self.to_image = ConvBlock(sizes[-1], channels, 3, padding=1, act="tanh")
        _initialize(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z, c = self.labels.generator_inputs(z, y)
        x = self.start(z).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            x = block(x, c)
        return self.to_image(bias_act(self.norm(x), None, "relu"))


class Discriminator(nn.Module):
    """Images [N, channels, side, side] (and labels y [N]) → logits [N]: blocks, ReLU, global pooling, linear.

    The pooling is a sum with spectral norm, as in SNGAN, and otherwise a mean, as in WGAN-GP. With auxiliary=True:
    images → logits [N] and class logits [N, classes].
    """

    def __init__(self, resolution: int, channels: int, width: int, norm: str, labels: Labels):
        super().__init__()
        self.labels, self.classes, self.auxiliary = labels, labels.classes, labels.auxiliary
        multiples, halvings = DOWN[resolution]
        sizes = [channels + labels.extra_channels, *(multiple * width for multiple in multiples)]
        self.blocks = nn.Sequential(*(
            # The first block has as many channels inside as its output has, the others as many as their input.
            DownBlock(sizes[i], sizes[i + 1], sizes[max(i, 1)], norm=norm, halve=i < halvings, first=i == 0)
            for i in range(len(multiples))
        ))  # fmt: skip
        self.pool = torch.sum if norm == "spectral" else torch.mean
        self.to_logit = LinearBlock(sizes[-1], 1, norm=norm, act="linear")
        self.head = LabelHead(labels, sizes[-1], norm)
        _initialize(self)
        group_spectral_norms(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        features = self.pool(bias_act(self.blocks(self.labels.concat_image(x, y)), None, "relu"), (2, 3))
        return self.head(self.to_logit(features).flatten(), features, y)


def build(
    resolution: int, channels: int, latent: int, width: int, classes: int, d_norm: str, *, condition: str | None = None
) -> tuple[Generator, Discriminator]:
    """A generator and a discriminator.

    width: channels of the discriminator's first block. d_norm: "spectral" or "none". condition: one of
    `labels.CONDITIONS`; None means "projection". Raises UsageError for an unsupported resolution, norm or condition.
    """
    if resolution not in UP:
        raise UsageError(f"resolution: resnet supports 32, 64 or 128, got {resolution}")
    check_norm("resnet", d_norm)
    labels = Labels.create("resnet", classes, condition, CONDITIONS)
    return (
        Generator(resolution, channels, latent, width, labels),
        Discriminator(resolution, channels, width, d_norm, labels),
    )


def _initialize(network: nn.Module) -> None:
    """Glorot initialization, with gain √2 for 3×3 convolutions in blocks; conditional norms start unconditional."""
    initialize(network, nn.init.xavier_uniform_)
    for block in network.modules():
        if isinstance(block, UpBlock | DownBlock):
            for conv in (block.conv1, block.conv2):
                initialize(conv, lambda weight: nn.init.xavier_uniform_(weight, sqrt(2)))
        if isinstance(block, UpBlock):
            for norm in (block.bn1, block.bn2):
                initialize(norm, nn.init.zeros_)
