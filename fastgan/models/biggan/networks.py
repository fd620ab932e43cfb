"""BigGAN's pair (tables 4 to 6 of the paper; 32×32 and 64×64 as in BigGAN-PyTorch)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import LabelHead, Labels, refuse
from fastgan.models.residual import DownBlock, UpBlock, check_norm
from fastgan.nn import ConvBlock, LinearBlock, SelfAttention, group_spectral_norms, initialize
from fastgan.ops import bias_act

#: resolution → multiples of the width: at 4×4, and after each block of the generator.
UP = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
#: resolution → multiples of the width after each block of the discriminator, and how many of them halve the side.
DOWN = {
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
    512: ((1, 1, 2, 4, 8, 8, 16, 16), 7),
}


class Generator(nn.Module):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side] in [-1, 1].

    z is split into as many parts as there are blocks, and one more: the first goes into the 4×4 map, the others, each
    beside the embedding of the label that all blocks share, into the conditional batch norms. Spectral norms on
    all weights but the embedding's. attention: the side of the feature map with self-attention; 0 leaves it out.
    """

    def __init__(
        self, resolution: int, channels: int, latent: int, width: int, classes: int, embedding: int, attention: int
    ):
        super().__init__()
        sizes = [multiple * width for multiple in UP[resolution]]
        if latent % len(sizes):
            raise UsageError(
                f"latent: biggan splits z into {len(sizes)} equal parts at {resolution}×{resolution},"
                f" expected a multiple of {len(sizes)}, got {latent}"
            )
        self.latent, self.image_shape, self.classes = latent, (channels, resolution, resolution), classes
        self.part = latent // len(sizes)
        self.shared = nn.Embedding(classes, embedding) if classes else None
        features = self.part + (embedding if classes else 0)
        self.linear = LinearBlock(self.part, sizes[0] * 16, norm="spectral", act="linear")
        self.blocks = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            level = nn.ModuleList([UpBlock(inputs, outputs, features, "spectral")])
            if attention == 8 << i:
                level.append(SelfAttention(outputs, spectral=True))
            self.blocks.append(level)
        self.norm = nn.BatchNorm2d(sizes[-1])
        self.to_image = ConvBlock(sizes[-1], channels, 3, padding=1, norm="spectral", act="tanh")
        initialize(self, nn.init.orthogonal_)
        group_spectral_norms(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if self.shared is None:
            refuse(y)
            return self.from_embedding(z, None)
        if y is None:
            raise UsageError(f"y: expected labels, int64 [N] below {self.classes}, got none")
        return self.from_embedding(z, self.shared(y))

    def from_embedding(self, z: Tensor, embedding: Tensor | None) -> Tensor:
        """Images of z [N, latent] and rows of `shared` [N, embedding], or mixtures of them: between the classes."""
        first, *parts = z.split(self.part, 1)
        x = self.linear(first).unflatten(1, (-1, 4, 4))
        for level, part in zip(self.blocks, parts, strict=True):
            block, *attention = level.children()
            x = block(x, part if embedding is None else torch.cat([embedding, part], 1))
            for layer in attention:
                x = layer(x)
        return self.to_image(bias_act(self.norm(x), None, "relu"))


class Discriminator(nn.Module):
    """Images [N, channels, side, side] (and labels y [N]) → logits [N], labels by projection.

    norm: "spectral" as in the paper, or "none".
    """

    auxiliary = False

    def __init__(self, resolution: int, channels: int, width: int, norm: str, classes: int, attention: int):
        super().__init__()
        self.classes = classes
        multiples, halvings = DOWN[resolution]
        sizes = [channels, *(multiple * width for multiple in multiples)]
        self.blocks = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            block = DownBlock(inputs, outputs, outputs, norm=norm, halve=i < halvings, first=i == 0)
            level = nn.ModuleList([block])
            if i < halvings and attention == resolution >> (i + 1):
                level.append(SelfAttention(outputs, spectral=norm == "spectral"))
            self.blocks.append(level)
        self.linear = LinearBlock(sizes[-1], 1, norm=norm, act="linear")
        self.head = LabelHead(Labels(classes, "projection") if classes else Labels(), sizes[-1], norm)
        initialize(self, nn.init.orthogonal_)
        group_spectral_norms(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if not self.classes:
            refuse(y)
        for level in self.blocks:
            for layer in level.children():
                x = layer(x)
        features = bias_act(x, None, "relu").sum((2, 3))
        return self.head(self.linear(features).flatten(), features, y)


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    embedding: int = 128,
    attention: int | None = None,
    condition: str | None = None,
) -> tuple[Generator, Discriminator]:
    """width: of both networks, the paper's ch (96, or 64). d_norm: the paper's is "spectral".

    embedding: numbers of the shared class embedding. attention: side of the feature maps with self-attention, 0 for
    none; left out, 64 for images of 128 and more, else none. condition: "projection", which is all that biggan knows.
    """
    if resolution not in UP:
        raise UsageError(f"resolution: biggan makes images of {', '.join(map(str, UP))}, got {resolution}")
    check_norm("biggan", d_norm)
    Labels.of("biggan", classes, condition, ("projection",))
    if embedding < 1:
        raise UsageError(f"embedding: expected a number >= 1, got {embedding}")
    if attention is None:
        attention = 64 if resolution >= 128 else 0
    _check_attention(resolution, attention)
    return (
        Generator(resolution, channels, latent, width, classes, embedding, attention),
        Discriminator(resolution, channels, width, d_norm, classes, attention),
    )


def _check_attention(resolution: int, attention: int) -> None:
    # What both networks have: the discriminator looks at no map smaller than its last.
    smallest = max(8, resolution >> DOWN[resolution][1])
    sides = [side for side in (8, 16, 32, 64, 128, 256) if smallest <= side < resolution]
    if attention not in (0, *sides):
        known = ", ".join(map(str, sides))
        raise UsageError(f"attention: expected 0 or the side of a feature map, {known}, got {attention}")
