"""DCGAN (Radford, Metz and Chintala 2016, arXiv:1511.06434), at 8, 16, 32, ... and 28, 56, ... pixels a side.

Strided convolutions and no pooling; batch norm and ReLU in the generator, leaky ReLU with slope 0.2 in the
discriminator; weights from N(0, 0.02²). The paper's networks have width 128 at 64×64: 1024, 512, 256 and 128 channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import ConditionalBlock, LabelHead, Labels, apply_blocks
from fastgan.nn import ConvBlock, ConvStack, LinearBlock, MinibatchDiscrimination, group_spectral_norms

CONDITIONS = ("projection", "concat", "auxiliary")


def levels(resolution: int) -> tuple[int, int]:
    """(side of the smallest feature map, doublings up to the resolution): 28 → (7, 2), 32 → (4, 3), 64 → (4, 4)."""
    for side, fewest in ((4, 1), (7, 2)):
        doublings = (resolution // side).bit_length() - 1
        if doublings >= fewest and side << doublings == resolution:
            return side, doublings
    raise UsageError(f"resolution: dcgan supports 8, 16, 32, 64, ..., or 28, 56, ..., got {resolution}")


class Generator(nn.Module):
    """z [N, latent] (and labels y [N]) → images [N, channels, side, side] in [-1, 1].

    width: channels of the input of the last layer; each layer before it has twice as many as the next.
    """

    def __init__(self, resolution: int, channels: int, latent: int, width: int, labels: Labels):
        super().__init__()
        side, doublings = levels(resolution)
        self.latent, self.image_shape = latent, (channels, resolution, resolution)
        self.labels, self.classes = labels, labels.classes
        max_width = width << (doublings - 1)
        self.start = _up(latent + labels.extra_latents, max_width, labels, side, 1, 0)
        self.blocks = nn.Sequential(
            *(_up(max_width >> i, max_width >> (i + 1), labels, 4, 2, 1) for i in range(doublings - 1))
        )
        self.to_image = ConvBlock(width, channels, 4, stride=2, padding=1, transposed=True, act="tanh")
        self.apply(_initialize)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z, c = self.labels.generator_inputs(z, y)
        x = z[:, :, None, None]
        x = self.start(x) if c is None else self.start(x, c)
        return self.to_image(apply_blocks(self.blocks, x, c))


def _up(inputs: int, outputs: int, labels: Labels, kernel: int, stride: int, padding: int) -> nn.Module:
    if labels.norm_features:
        layer = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, bias=False)
        return ConditionalBlock(layer, outputs, labels.norm_features, "relu")
    return ConvBlock(inputs, outputs, kernel, stride=stride, padding=padding, transposed=True, norm="batch", act="relu")


class Discriminator(nn.Module):
    """Images [N, channels, side, side] (and labels y [N]) → logits [N].

    With auxiliary=True: images → logits [N] and class logits [N, classes]. norm: "none", "batch" (not in the first and
    the last layer) or "spectral". kernels: size of the minibatch discrimination before the last layer; 0 omits it.
    """

    def __init__(self, resolution: int, channels: int, width: int, norm: str, labels: Labels, kernels: int = 0):
        super().__init__()
        side, doublings = levels(resolution)
        self.labels, self.classes, self.auxiliary = labels, labels.classes, labels.auxiliary
        end_norm = "spectral" if norm == "spectral" else "none"  # of the first and the last layer
        blocks = [ConvBlock(channels + labels.extra_channels, width, 4, stride=2, padding=1, norm=end_norm)]
        for i in range(doublings - 1):
            blocks.append(ConvBlock(width << i, width << (i + 1), 4, stride=2, padding=1, norm=norm))
        self.blocks = ConvStack(*blocks)
        features = (width << (doublings - 1)) * side * side
        self.compare = MinibatchDiscrimination(features, kernels) if kernels else nn.Identity()
        self.to_logit = LinearBlock(features + kernels, 1, norm=end_norm, act="linear")
        self.head = LabelHead(labels, features, end_norm)
        self.apply(_initialize)
        group_spectral_norms(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        features = self.blocks(self.labels.concat_image(x, y)).flatten(1)
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
    """A generator and a discriminator with mirrored widths.

    condition: one of `labels.CONDITIONS`; None means "projection". minibatch_discrimination: number of kernels before
    the discriminator's last layer (Salimans et al. 2016, arXiv:1606.03498); 0 omits it. Raises UsageError for an
    unsupported resolution or condition.
    """
    labels = Labels.create("dcgan", classes, condition, CONDITIONS)
    return (
        Generator(resolution, channels, latent, width, labels),
        Discriminator(resolution, channels, width, d_norm, labels, minibatch_discrimination),
    )


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        # With spectral norm the parameter is `parametrizations.weight.original`, and `weight` is computed from it.
        for name, parameter in module.named_parameters():
            if name != "bias":
                nn.init.normal_(parameter, 0.0, 0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
        with torch.no_grad():
            module.weight.normal_(1.0, 0.02)
            module.bias.zero_()
