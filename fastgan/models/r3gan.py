"""R3GAN (Huang et al. 2024, arXiv:2501.05441): residual blocks with grouped convolutions, without norms.

The paper trains it with the relativistic pairing loss, R1 and R2. width: channels up to 32×32, halved at 64×64 and at
each level above (the paper: 768, with z of 64 numbers). Groups have 8 channels, and 16 between the two 1×1
convolutions. Weights are initialized with He's standard deviation divided by the fourth root of the number of blocks;
the last convolution of each block starts at zero, so the block starts as the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import Labels, one_hot, reject_labels
from fastgan.nn import Downsample, Upsample
from fastgan.nn.memory_format import match_weight_format
from fastgan.ops import conv2d, conv2d_bias_act

GROUP = 8  # channels of a group at the block's input
EXPANSION = 2  # channels inside a block per channel of its input
BLOCKS = 2  # in each stage
GAIN = sqrt(2 / (1 + 0.2**2))  # of He's initialization for leaky ReLUs with slope 0.2


class Block(nn.Module):
    """x [N, C, H, W] → x + inverted bottleneck(x): 1×1 to 2·C, grouped 3×3, 1×1 to C.

    blocks: number of blocks in the network; it scales the initial weights. group: channels of x per group.
    """

    def __init__(self, channels: int, blocks: int, group: int = GROUP):
        super().__init__()
        wide, groups = EXPANSION * channels, channels // group
        gain = GAIN * blocks**-0.25
        self.conv1 = _conv(channels, wide, 1, gain)
        self.bias1 = nn.Parameter(torch.zeros(wide))
        self.conv2 = _conv(wide, wide, 3, gain, groups, padding=1)
        self.bias2 = nn.Parameter(torch.zeros(wide))
        self.conv3 = _conv(wide, channels, 1, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        h = conv2d_bias_act(x, self.conv1.weight, self.bias1, "leaky_relu")
        h = conv2d_bias_act(h, self.conv2.weight, self.bias2, "leaky_relu", padding=1, groups=self.conv2.groups)
        return x + conv2d(h, self.conv3.weight)


class Generator(nn.Module):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side].

    The last layer is linear, as in the paper: images are in about [-1, 1] and may exceed it. Labels are embedded into
    `latent` numbers that are concatenated to z. widths: channels at 4×4, 8×8, ..., where they are others than `width`
    gives; group: channels of a group at a block's input (the authors' networks for ImageNet have other ones).
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        latent: int,
        width: int,
        classes: int,
        *,
        widths: Sequence[int] = (),
        group: int = GROUP,
    ):
        super().__init__()
        self.latent, self.image_shape, self.classes = latent, (channels, resolution, resolution), classes
        sizes = list(widths) or _widths(resolution, width)
        blocks = BLOCKS * len(sizes)
        self.embed = _linear(classes, latent) if classes else None
        self.basis = nn.Parameter(torch.randn(sizes[0], 4, 4))
        self.to_basis = _linear(latent * (2 if classes else 1), sizes[0])
        stages: list[nn.Module] = [Block(sizes[0], blocks, group) for _ in range(BLOCKS)]
        for before, size in pairwise(sizes):
            if before != size:
                # Before the upsampling: it commutes with the filter, and costs less there.
                stages.append(_conv(before, size, 1, 1.0))
            stages += [Upsample(), *(Block(size, blocks, group) for _ in range(BLOCKS))]
        self.stages = nn.Sequential(*stages)
        self.to_image = _conv(sizes[-1], channels, 1, 1.0)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if self.embed is None:
            reject_labels(y)
        else:
            z = torch.cat([z, self.embed(one_hot(y, self.classes, z))], 1)
        x = self.to_basis(z)[:, :, None, None] * self.basis
        x = match_weight_format(x, self.to_image.weight)
        return conv2d(self.stages(x), self.to_image.weight)


class Discriminator(nn.Module):
    """Images [N, channels, side, side] (and labels y [N]) → logits [N]; labels enter by projection.

    widths, group: as in the generator.
    """

    auxiliary = False

    def __init__(
        self,
        resolution: int,
        channels: int,
        width: int,
        classes: int,
        *,
        widths: Sequence[int] = (),
        group: int = GROUP,
    ):
        super().__init__()
        self.classes = classes
        sizes = (list(widths) or _widths(resolution, width))[::-1]
        blocks = BLOCKS * len(sizes)
        self.from_image = _conv(channels, sizes[0], 1, 1.0)
        stages: list[nn.Module] = [Block(sizes[0], blocks, group) for _ in range(BLOCKS)]
        for before, size in pairwise(sizes):
            stages.append(Downsample())
            if before != size:
                stages.append(_conv(before, size, 1, 1.0))
            stages += [Block(size, blocks, group) for _ in range(BLOCKS)]
        self.stages = nn.Sequential(*stages)
        self.basis = _conv(sizes[-1], sizes[-1], 4, 1.0, groups=sizes[-1])
        self.to_logit = _linear(sizes[-1], sizes[-1] if classes else 1)
        self.embed = _linear(classes, sizes[-1], gain=1 / sqrt(sizes[-1])) if classes else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.stages(match_weight_format(conv2d(x, self.from_image.weight), self.basis.weight))
        features = self.to_logit(self.basis(x).flatten(1))
        if self.embed is None:
            reject_labels(y)
            return features.flatten()
        return (features * self.embed(one_hot(y, self.classes, features))).sum(1)


def build(
    resolution: int, channels: int, latent: int, width: int, classes: int, d_norm: str, *, condition: str | None = None
) -> tuple[Generator, Discriminator]:
    """A generator and a discriminator.

    condition: "projection", the only one supported: an embedding of the label concatenated to z, and a projection in
    the discriminator. Raises UsageError for an unsupported resolution, width, norm or condition.
    """
    if resolution < 8 or resolution & (resolution - 1):
        raise UsageError(f"resolution: r3gan supports powers of two from 8, got {resolution}")
    if d_norm != "none":
        raise UsageError(f"d_norm: r3gan supports no norm, got {d_norm!r}; use none")
    narrowest = _widths(resolution, width)[-1]
    if narrowest < GROUP or any(size % GROUP for size in _widths(resolution, width)):
        divisor = GROUP * max(resolution // 32, 1)
        raise UsageError(f"width: r3gan at {resolution}×{resolution} needs a multiple of {divisor}, got {width}")
    Labels.create("r3gan", classes, condition, ("projection",))
    return Generator(resolution, channels, latent, width, classes), Discriminator(resolution, channels, width, classes)


def _widths(resolution: int, width: int) -> list[int]:
    """Channels at 4×4, 8×8, ... up to the resolution."""
    return [min(width, 32 * width // side) for side in (4 << i for i in range((resolution // 4).bit_length()))]


def _conv(inputs: int, outputs: int, kernel: int, gain: float, groups: int = 1, padding: int = 0) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=padding, groups=groups, bias=False)
    nn.init.normal_(layer.weight, 0.0, gain / sqrt(layer.weight[0].numel()))
    return layer


def _linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, 0.0, gain / sqrt(inputs))
    return layer
