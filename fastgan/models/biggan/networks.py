"""The networks of BigGAN (arXiv:1809.11096, tables 4 to 6; 32×32 and 64×64 as in BigGAN-PyTorch)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import LabelHead, Labels, reject_labels
from fastgan.models.residual import DownBlock, UpBlock, check_norm
from fastgan.nn import ConvBlock, LinearBlock, SelfAttention, group_spectral_norms, initialize
from fastgan.ops import bias_act

#: resolution → channels as multiples of the width: at 4×4, and after each block of the generator.
UP = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
#: resolution → (multiples of the width after each block of the discriminator, number of blocks that halve the side)
DOWN = {
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
    512: ((1, 1, 2, 4, 8, 8, 16, 16), 7),
}


class Generator(nn.Module):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side] in [-1, 1].

    z is split into one part for the first layer and one for each block. A block's part, concatenated to the embedding
    of the label (one embedding for all blocks), is the condition of its batch norms. All weights but the embedding
    have spectral norm. embedding: size of the label's embedding. attention: side of the feature map with
    self-attention, in pixels; 0 omits it.
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
            reject_labels(y)
            return self.from_embedding(z, None)
        if y is None:
            raise UsageError(f"y: expected labels, int64 [N] below {self.classes}, got none")
        return self.from_embedding(z, self.shared(y))

    def from_embedding(self, z: Tensor, embedding: Tensor | None) -> Tensor:
        """Images from z [N, latent] and embeddings [N, embedding]: rows of `shared`, or interpolations of them."""
        first, *parts = z.split(self.part, 1)
        x = self.linear(first).unflatten(1, (-1, 4, 4))
        for level, part in zip(self.blocks, parts, strict=True):
            block, *attention = level.children()
            x = block(x, part if embedding is None else torch.cat([embedding, part], 1))
            for layer in attention:
                x = layer(x)
        return self.to_image(bias_act(self.norm(x), None, "relu"))


class Discriminator(nn.Module):
    """Images [N, channels, side, side] (and labels y [N]) → logits [N]; labels enter by projection.

    norm: "spectral" as in the paper, or "none". attention: side of the feature map with self-attention; 0 omits it.
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
            reject_labels(y)
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
    """A generator and a discriminator.

    width: of both networks, "ch" in the paper (96 or 64). d_norm: "spectral" as in the paper, or "none". embedding:
    size of the class embedding that the generator's blocks share. attention: side of the feature maps with
    self-attention, in pixels; 0 omits it; None means 64 for images of 128×128 and more, else 0. condition:
    "projection", the only one supported. Raises UsageError for unsupported sizes or options.
    """
    if resolution not in UP:
        raise UsageError(f"resolution: biggan supports {', '.join(map(str, UP))}, got {resolution}")
    check_norm("biggan", d_norm)
    Labels.create("biggan", classes, condition, ("projection",))
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
    # Sides of feature maps that both networks have; the discriminator has none smaller than its last.
    smallest = max(8, resolution >> DOWN[resolution][1])
    sides = [side for side in (8, 16, 32, 64, 128, 256) if smallest <= side < resolution]
    if attention not in (0, *sides):
        known = ", ".join(map(str, sides))
        raise UsageError(f"attention: expected 0 or the side of a feature map, {known}, got {attention}")
