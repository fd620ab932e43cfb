"""ProGAN: networks for progressive growing from 4×4 images (Karras et al. 2018, arXiv:1710.10196, table 2).

Equalized learning rates, leaky ReLUs with slope 0.2, pixel norm in the generator, minibatch standard deviation in the
discriminator. width: channels up to 32×32, halved at 64×64 and at each level above (the paper: 512, with z of 512
numbers).

Both networks are built with all levels and start at the full resolution. `grow(0)` sets them to 4×4 images, `grow(1)`
to 8×8, and so on; with `alpha` below 1 the newest level is faded in. `fastgan.train.growth` calls `grow` on the
generator, its average and the discriminator together, and resizes real images to the generator's `image_shape`.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.growing import Growing, require_stages
from fastgan.models.labels import Labels
from fastgan.nn import EqualizedConv, EqualizedLinear, MinibatchStdDev, PixelNorm
from fastgan.ops import bias_act, conv_transpose2d

CONDITIONS = ("auxiliary", "concat")


class Generator(Growing):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side] at the current stage.

    The last layer is linear, as in the paper: images are in about [-1, 1] and may exceed it.
    """

    def __init__(self, resolution: int, channels: int, latent: int, width: int, labels: Labels):
        super().__init__(resolution)
        self.latent, self.channels = latent, channels
        self.labels, self.classes = labels, labels.classes
        sizes = _widths(width, self.stages)
        self.blocks = nn.ModuleList([_GeneratorStart(latent + labels.extra_latents, sizes[0])])
        self.blocks.extend(_GeneratorBlock(a, b) for a, b in pairwise(sizes))
        self.to_image = nn.ModuleList(EqualizedConv(size, channels, 1, gain=1.0, act="linear") for size in sizes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the images at the current stage."""
        return (self.channels, self.side, self.side)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x, _ = self.labels.generator_inputs(z, y)
        previous = x
        for i in range(self.stage + 1):
            previous, x = x, self.blocks[i](x)
        image = self.to_image[self.stage](x)
        if not self.fading:
            return image
        return self.faded(F.interpolate(self.to_image[self.stage - 1](previous), scale_factor=2), image)


class Discriminator(Growing):
    """Images [N, channels, side, side] at the current stage (and labels y [N]) → logits [N].

    With auxiliary=True: images → logits [N] and class logits [N, classes].
    """

    def __init__(self, resolution: int, channels: int, width: int, labels: Labels):
        super().__init__(resolution)
        self.labels, self.classes, self.auxiliary = labels, labels.classes, labels.auxiliary
        sizes = _widths(width, self.stages)
        self.from_image = nn.ModuleList(EqualizedConv(channels + labels.extra_channels, size, 1) for size in sizes)
        self.blocks = nn.ModuleList(_DiscriminatorBlock(b, a) for a, b in pairwise(sizes))
        self.last = nn.Sequential(
            MinibatchStdDev(),
            EqualizedConv(sizes[0] + 1, sizes[0], 3, padding=1),
            nn.Flatten(),
            EqualizedLinear(sizes[0] * 16, sizes[0]),
        )
        outputs = 1 + (labels.classes if labels.auxiliary else 0)
        self.to_logit = EqualizedLinear(sizes[0], outputs, gain=1.0, act="linear")

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        if x.shape[2:] != (self.side, self.side):
            size = "×".join(map(str, x.shape[2:]))
            raise UsageError(
                f"x: expected images of {self.side}×{self.side}, as of the discriminator's current stage, got {size}"
            )
        image = self.labels.concat_image(x, y)
        x = self.from_image[self.stage](image)
        for i in range(self.stage, 0, -1):
            x = self.blocks[i - 1](x)
            if self.fading and i == self.stage:
                x = self.faded(self.from_image[i - 1](F.avg_pool2d(image, 2)), x)
        outputs = self.to_logit(self.last(x))
        return (outputs[:, 0], outputs[:, 1:]) if self.auxiliary else outputs[:, 0]


class _GeneratorStart(nn.Module):
    def __init__(self, latent: int, width: int):
        super().__init__()
        # A transposed convolution of 1×1 images; the paper calls it a 4×4 convolution. A quarter of He's gain, as in
        # the authors' code.
        self.weight = nn.Parameter(torch.randn(latent, width, 4, 4))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = sqrt(2) / 4 / sqrt(latent)
        self.conv, self.norm = EqualizedConv(width, width, 3, padding=1), PixelNorm()

    def forward(self, z: Tensor) -> Tensor:
        x = conv_transpose2d(self.norm(z)[:, :, None, None], self.weight * self.scale)
        return self.norm(self.conv(self.norm(bias_act(x, self.bias, "leaky_relu"))))


class _GeneratorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv0, self.conv1 = (EqualizedConv(size, outputs, 3, padding=1) for size in (inputs, outputs))
        self.norm = PixelNorm()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv0(F.interpolate(x, scale_factor=2)))
        return self.norm(self.conv1(x))


class _DiscriminatorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv0, self.conv1 = (EqualizedConv(inputs, size, 3, padding=1) for size in (inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(self.conv0(x)), 2)


def build(
    resolution: int, channels: int, latent: int, width: int, classes: int, d_norm: str, *, condition: str | None = None
) -> tuple[Generator, Discriminator]:
    """A generator and a discriminator at the full resolution.

    condition: "auxiliary" or "concat" (see `labels.CONDITIONS`); None means "auxiliary", as in the paper. Raises
    UsageError for an unsupported resolution, width, norm or condition.
    """
    require_stages("progan", resolution)
    if d_norm != "none":
        raise UsageError(
            f"d_norm: progan's discriminator has equalized learning rates and supports no norm, got {d_norm!r};"
            " use none"
        )
    if min(_widths(width, (resolution // 4).bit_length())) < 1:
        raise UsageError(
            f"width: progan halves it at each level from 64×64; at {resolution}×{resolution} no channel"
            f" is left of {width}"
        )
    labels = Labels.create("progan", classes, condition, CONDITIONS)
    return Generator(resolution, channels, latent, width, labels), Discriminator(resolution, channels, width, labels)


def _widths(width: int, stages: int) -> list[int]:
    """Channels of the feature maps of 4×4, 8×8, 16×16, ... pixels."""
    return [min(width, 32 * width // (4 << stage)) for stage in range(stages)]
