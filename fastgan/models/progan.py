"""Networks that grow from 4×4 up (Karras et al. 2018, arXiv:1710.10196, table 2).

Equalized learning rates, leaky ReLUs with slope 0.2, pixel norm in the generator, the minibatch's standard deviation
in the discriminator. width: channels of the small maps, halved from 64×64 on (the paper's 512, with z of 512 numbers).

Both networks are built whole and start fully grown. `grow(0)` makes them networks of 4×4 images, `grow(1)` adds 8×8,
and while `alpha` is less than 1 the new level is faded in over the one before. `fastgan.train.growth` does so for the
generator, its average and the discriminator alike, and gives the discriminator real images of the side that `image_shape` says.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.labels import Labels
from fastgan.nn import EqualizedConv, EqualizedLinear, MinibatchStdDev, PixelNorm
from fastgan.ops import bias_act, conv_transpose2d

CONDITIONS = ("auxiliary", "concat")


class _Growing(nn.Module):
    """What is there of a network: levels 0 (4×4) to `stage`, the last of them by the part alpha."""

    _stage: Tensor
    _alpha: Tensor

    def __init__(self, resolution: int):
        super().__init__()
        self.stages = (resolution // 4).bit_length()
        # Buffers, so that a checkpoint holds them; stage and fading once more as plain values, which decide what runs.
        self.register_buffer("_stage", torch.tensor(self.stages - 1))
        self.register_buffer("_alpha", torch.ones(()))
        self.stage, self.fading = self.stages - 1, False
        self.register_load_state_dict_post_hook(_Growing._read)

    def grow(self, stage: int, alpha: float = 1.0) -> None:
        """Let the network be one of images with 4·2^stage pixels a side. Raises UsageError beyond its resolution."""
        if not 0 <= stage < self.stages:
            raise UsageError(f"stage: expected a number from 0 (4×4) to {self.stages - 1}, got {stage}")
        self._stage.fill_(stage)
        self.stage = stage
        self.alpha = alpha

    @property
    def alpha(self) -> float:
        """How much of the newest level is faded in, 0 to 1."""
        return float(self._alpha)

    @alpha.setter
    def alpha(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise UsageError(f"alpha: expected a number from 0 to 1, got {value}")
        self._alpha.fill_(value)
        self.fading = self.stage > 0 and value < 1  # not read from the device: a step would wait for it

    @property
    def side(self) -> int:
        """Pixels of a side as of now."""
        return 4 << self.stage

    def _read(self, _: object = None) -> None:
        self.stage = int(self._stage)
        self.fading = self.stage > 0 and float(self._alpha) < 1

    def faded(self, before: Tensor, now: Tensor) -> Tensor:
        """now, faded in over what the level before makes."""
        return torch.lerp(before, now, self._alpha.to(now.dtype))


class Generator(_Growing):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side] for the side as of now.

    The last layer is linear, as in the paper: images are meant for [-1, 1], and may leave it.
    """

    def __init__(self, resolution: int, channels: int, latent: int, width: int, labels: Labels):
        super().__init__(resolution)
        self.latent, self.channels = latent, channels
        self.labels, self.classes = labels, labels.classes
        sizes = _widths(width, self.stages)
        self.blocks = nn.ModuleList([_GeneratorStart(latent + labels.beside_latent, sizes[0])])
        self.blocks.extend(_GeneratorBlock(a, b) for a, b in pairwise(sizes))
        self.to_image = nn.ModuleList(EqualizedConv(size, channels, 1, gain=1.0, act="linear") for size in sizes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of the images as of now."""
        return (self.channels, self.side, self.side)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x, _ = self.labels.generate(z, y)
        before = x
        for i in range(self.stage + 1):
            before, x = x, self.blocks[i](x)
        image = self.to_image[self.stage](x)
        if not self.fading:
            return image
        return self.faded(F.interpolate(self.to_image[self.stage - 1](before), scale_factor=2), image)


class Discriminator(_Growing):
    """Images [N, channels, side, side] of the side as of now (and labels y [N]) → logits [N].

    With auxiliary=True, images → logits [N] and class logits [N, classes].
    """

    def __init__(self, resolution: int, channels: int, width: int, labels: Labels):
        super().__init__(resolution)
        self.labels, self.classes, self.auxiliary = labels, labels.classes, labels.auxiliary
        sizes = _widths(width, self.stages)
        self.from_image = nn.ModuleList(EqualizedConv(channels + labels.beside_image, size, 1) for size in sizes)
        self.blocks = nn.ModuleList(_DiscriminatorBlock(b, a) for a, b in pairwise(sizes))
        self.last = nn.Sequential(
            MinibatchStdDev(),
            EqualizedConv(sizes[0] + 1, sizes[0], 3, padding=1),
            nn.Flatten(),
            EqualizedLinear(sizes[0] * 16, sizes[0]),
        )
        answers = 1 + (labels.classes if labels.auxiliary else 0)
        self.to_logit = EqualizedLinear(sizes[0], answers, gain=1.0, act="linear")

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        if x.shape[2:] != (self.side, self.side):
            size = "×".join(map(str, x.shape[2:]))
            raise UsageError(
                f"x: expected images of {self.side}×{self.side}, as the discriminator is grown, got {size}"
            )
        image = self.labels.judge(x, y)
        x = self.from_image[self.stage](image)
        for i in range(self.stage, 0, -1):
            x = self.blocks[i - 1](x)
            if self.fading and i == self.stage:
                x = self.faded(self.from_image[i - 1](F.avg_pool2d(image, 2)), x)
        answers = self.to_logit(self.last(x))
        return (answers[:, 0], answers[:, 1:]) if self.auxiliary else answers[:, 0]


class _GeneratorStart(nn.Module):
    def __init__(self, latent: int, width: int):
        super().__init__()
        # Of 1×1 images: what the paper calls a 4×4 convolution. A quarter of He's gain, as in the authors' code.
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
    """Both networks, fully grown. condition: see `labels.CONDITIONS`; "auxiliary", the paper's, if left out."""
    if resolution < 8 or resolution & (resolution - 1):
        near = max(8, 1 << max(resolution, 1).bit_length() - 1)
        raise UsageError(
            f"resolution: progan grows from 4 to a power of two from 8 on, got {resolution}; give {near} or {2 * near}"
        )
    if d_norm != "none":
        raise UsageError(
            f"d_norm: progan's discriminator has equalized learning rates and no norm, got {d_norm!r}; use none"
        )
    if min(_widths(width, (resolution // 4).bit_length())) < 1:
        raise UsageError(f"width: progan halves it from 64×64 on; at {resolution} nothing is left of {width}")
    labels = Labels.of("progan", classes, condition, CONDITIONS)
    return Generator(resolution, channels, latent, width, labels), Discriminator(resolution, channels, width, labels)


def _widths(width: int, stages: int) -> list[int]:
    """Channels of the maps of 4, 8, 16, ... pixels a side."""
    return [min(width, 32 * width // (4 << stage)) for stage in range(stages)]
