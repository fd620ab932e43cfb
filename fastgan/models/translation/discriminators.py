"""Discriminators of patches: of pix2pix and CycleGAN (arXiv:1611.07004, section 3.2.2), and of pix2pixHD.

With source_channels greater than 0 they are called with an image and its source, which are concatenated, the source
first; with 0 with an image alone, as in CycleGAN.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.translation.layers import SLOPE, check, has_bias, initialize, norm_layer
from fastgan.nn import fuse
from fastgan.nn.fusion.sequential import run


class PatchDiscriminator(nn.Module):
    """Images [N, channels, H, W] (and sources [N, source_channels, H, W]) → logits [N, 1, h, w], one for each patch.

    layers: halvings of the image, 3 for patches of 70×70 pixels. width: feature maps of the first layer; they double up
    to eight times as many. norm: "batch" (pix2pix), "instance" (CycleGAN) or "none"; not in the first and last layer.
    """

    auxiliary = False

    def __init__(
        self, channels: int = 3, source_channels: int = 0, layers: int = 3, width: int = 64, norm: str = "batch"
    ):
        super().__init__()
        check(norm, channels=channels, layers=layers, width=width)
        self.source_channels = _source_channels(source_channels)
        self.arguments = {
            "channels": channels, "source_channels": source_channels, "layers": layers, "width": width, "norm": norm,
        }  # fmt: skip
        inputs, outputs = channels + source_channels, width
        blocks: list[nn.Module] = [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True)]
        for i in range(1, layers + 1):
            inputs, outputs = outputs, width * min(1 << i, 8)
            stride = 2 if i < layers else 1
            blocks.append(nn.Conv2d(inputs, outputs, 4, stride, 1, bias=has_bias(norm)))
            blocks += [norm_layer(norm, outputs), nn.LeakyReLU(SLOPE, inplace=True)]
        self.model = nn.Sequential(*blocks, nn.Conv2d(outputs, 1, 4, 1, 1))
        self.apply(initialize)
        fuse(self)

    def forward(self, image: Tensor, source: Tensor | None = None) -> Tensor:
        return self.model(_beside_source(image, source, self.source_channels))

    def features(self, image: Tensor, source: Tensor | None = None) -> list[list[Tensor]]:
        """The outputs of all activations and the logits, of one scale: as of `MultiScaleDiscriminator`."""
        return [_layers(self.model, _beside_source(image, source, self.source_channels))]


class PixelDiscriminator(nn.Module):
    """Images [N, channels, H, W] (and sources [N, source_channels, H, W]) → logits [N, 1, H, W], one for each pixel.

    width: feature maps of the first layer; the second has twice as many. norm: as in `PatchDiscriminator`.
    """

    auxiliary = False

    def __init__(self, channels: int = 3, source_channels: int = 0, width: int = 64, norm: str = "batch"):
        super().__init__()
        check(norm, channels=channels, width=width)
        self.source_channels = _source_channels(source_channels)
        self.arguments = {
            "channels": channels, "source_channels": source_channels, "width": width, "norm": norm,
        }  # fmt: skip
        bias = has_bias(norm)
        self.net = nn.Sequential(
            nn.Conv2d(channels + source_channels, width, 1),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(width, 2 * width, 1, bias=bias),
            norm_layer(norm, 2 * width),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(2 * width, 1, 1, bias=bias),
        )
        self.apply(initialize)
        fuse(self)

    def forward(self, image: Tensor, source: Tensor | None = None) -> Tensor:
        return self.net(_beside_source(image, source, self.source_channels))

    def features(self, image: Tensor, source: Tensor | None = None) -> list[list[Tensor]]:
        """The outputs of all activations and the logits, of one scale: as of `MultiScaleDiscriminator`."""
        return [_layers(self.net, _beside_source(image, source, self.source_channels))]


class MultiScaleDiscriminator(nn.Module):
    """The discriminator of pix2pixHD (Wang et al. 2018, arXiv:1711.11585): the same network at several resolutions.

    Images [N, channels, H, W] (and sources [N, source_channels, H, W]) → a list of logits [N, 1, h, w], of the image,
    then of the image at half its size, and so on; `features` returns those of all layers too. A task of its own sums
    its losses over the list: see docs/tasks.md. scales: number of resolutions. layers, width: as in
    `PatchDiscriminator`, with at most 512 feature maps. norm: "instance" (the paper), "batch" or "none".
    """

    auxiliary = False

    def __init__(
        self,
        channels: int = 3,
        source_channels: int = 0,
        scales: int = 3,
        layers: int = 3,
        width: int = 64,
        norm: str = "instance",
    ):
        super().__init__()
        check(norm, channels=channels, scales=scales, layers=layers, width=width)
        self.source_channels, self.scales, self.layers = _source_channels(source_channels), scales, layers
        self.arguments = {
            "channels": channels, "source_channels": source_channels, "scales": scales, "layers": layers,
            "width": width, "norm": norm,
        }  # fmt: skip
        for scale in range(scales):
            inputs, outputs = channels + source_channels, width
            for i in range(layers + 2):
                last = i == layers + 1
                block: list[nn.Module] = [nn.Conv2d(inputs, 1 if last else outputs, 4, 2 if i < layers else 1, 2)]
                if i > 0 and not last:
                    block.append(norm_layer(norm, outputs))
                if not last:
                    block.append(nn.LeakyReLU(SLOPE, inplace=True))
                inputs, outputs = outputs, min(2 * outputs, 512)
                self.add_module(f"scale{scale}_layer{i}", nn.Sequential(*block))
        self.apply(initialize)
        fuse(self)

    def forward(self, image: Tensor, source: Tensor | None = None) -> list[Tensor]:
        return [found[-1] for found in self.features(image, source)]

    def features(self, image: Tensor, source: Tensor | None = None) -> list[list[Tensor]]:
        """For each scale, that of the whole image first: the outputs of all layers, the logits last."""
        x = _beside_source(image, source, self.source_channels)
        found = []
        for scale in reversed(range(self.scales)):
            outputs = [x]
            for i in range(self.layers + 2):
                outputs.append(self.get_submodule(f"scale{scale}_layer{i}")(outputs[-1]))
            found.append(outputs[1:])
            if scale:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return found


def _layers(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The outputs of a sequence after each of its activations, and at its end."""
    found, piece = [], []
    for module in network.children():
        piece.append(module)
        if isinstance(module, nn.LeakyReLU):
            x = run(piece, x)
            found.append(x)
            piece = []
    return [*found, run(piece, x)]


def _source_channels(number: int) -> int:
    if number < 0:
        raise UsageError(f"source_channels: expected a number >= 0, got {number}")
    return number


def _beside_source(image: Tensor, source: Tensor | None, channels: int) -> Tensor:
    if (source is None) != (channels == 0):
        wanted = f"images [N, {channels}, H, W]" if channels else "None, as source_channels is 0"
        raise UsageError(f"source: expected {wanted}, got {None if source is None else list(source.shape)}")
    return image if source is None else torch.cat([source, image], 1)
