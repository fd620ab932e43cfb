"""Discriminators of super-resolution, with the state dict names of the public checkpoints of BasicSR."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.nn import fuse

SLOPE = 0.2
#: Of the images of a VGGDiscriminator, which halves them until 4×4 are left.
SIDES = tuple(4 << level for level in range(1, 9))


class UNetDiscriminator(nn.Module):
    """Images [N, channels, H, W] → logits [N, 1, H, W], one for each pixel: Real-ESRGAN (arXiv:2107.10833).

    A U-Net of three halvings whose inner convolutions have spectral norms. H and W must be multiples of 8. width:
    feature maps of the first layer, doubled at each halving.
    """

    auxiliary = False

    def __init__(self, channels: int = 3, width: int = 64):
        super().__init__()
        check_sizes(channels=channels, width=width)
        self.channels, self.arguments = channels, {"channels": channels, "width": width}
        self.conv0 = nn.Conv2d(channels, width, 3, 1, 1)
        self.conv1 = _spectral(width, 2 * width, 4, 2)
        self.conv2 = _spectral(2 * width, 4 * width, 4, 2)
        self.conv3 = _spectral(4 * width, 8 * width, 4, 2)
        self.conv4 = _spectral(8 * width, 4 * width)
        self.conv5 = _spectral(4 * width, 2 * width)
        self.conv6 = _spectral(2 * width, width)
        self.conv7 = _spectral(width, width)
        self.conv8 = _spectral(width, width)
        self.conv9 = nn.Conv2d(width, 1, 3, 1, 1)
        fuse(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.channels or x.shape[2] % 8 or x.shape[3] % 8:
            raise UsageError(
                f"x: expected images [N, {self.channels}, H, W] with H and W in multiples of 8, got {list(x.shape)}"
            )
        x0 = F.leaky_relu(self.conv0(x), SLOPE)
        x1 = F.leaky_relu(self.conv1(x0), SLOPE)
        x2 = F.leaky_relu(self.conv2(x1), SLOPE)
        x3 = F.leaky_relu(self.conv3(x2), SLOPE)
        x4 = F.leaky_relu(self.conv4(_twice(x3)), SLOPE) + x2
        x5 = F.leaky_relu(self.conv5(_twice(x4)), SLOPE) + x1
        x6 = F.leaky_relu(self.conv6(_twice(x5)), SLOPE) + x0
        y = F.leaky_relu(self.conv7(x6), SLOPE)
        y = F.leaky_relu(self.conv8(y), SLOPE)
        return self.conv9(y)


class VGGDiscriminator(nn.Module):
    """Images [N, channels, side, side] → logits [N, 1]: the discriminator of SRGAN and ESRGAN, in the style of VGG.

    side: one of SIDES; 128 and 256 are in public files. width: feature maps of the first
    layer, doubled with each halving of the side up to eight times as many. Its batch norms couple the samples of a
    batch.
    """

    auxiliary = False

    def __init__(self, channels: int = 3, width: int = 64, side: int = 128):
        super().__init__()
        check_sizes(channels=channels, width=width)
        if side not in SIDES:
            raise UsageError(f"resolution: the VGG discriminator supports {', '.join(map(str, SIDES))}, got {side}")
        self.channels, self.side, self.levels = channels, side, side.bit_length() - 3
        self.arguments = {"channels": channels, "width": width, "side": side}
        inputs = channels
        for level in range(self.levels):
            outputs = width * min(1 << level, 8)
            self.add_module(f"conv{level}_0", nn.Conv2d(inputs, outputs, 3, 1, 1, bias=level == 0))
            if level:
                self.add_module(f"bn{level}_0", nn.BatchNorm2d(outputs))
            self.add_module(f"conv{level}_1", nn.Conv2d(outputs, outputs, 4, 2, 1, bias=False))
            self.add_module(f"bn{level}_1", nn.BatchNorm2d(outputs))
            inputs = outputs
        self.linear1 = nn.Linear(inputs * 4 * 4, 100)
        self.linear2 = nn.Linear(100, 1)
        fuse(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1:] != (self.channels, self.side, self.side):
            raise UsageError(
                f"x: expected images [N, {self.channels}, {self.side}, {self.side}], got {list(x.shape)};"
                " this discriminator is built for one size"
            )
        for level in range(self.levels):
            for part in (0, 1):
                x = self.get_submodule(f"conv{level}_{part}")(x)
                if level or part:
                    x = self.get_submodule(f"bn{level}_{part}")(x)
                x = F.leaky_relu(x, SLOPE)
        # Of channels_last maps flatten makes the same order as of others.
        x = F.leaky_relu(self.linear1(x.flatten(1)), SLOPE)
        return self.linear2(x)


#: By the name that `--model.discriminator` takes.
DISCRIMINATORS = ("unet", "vgg")


def discriminator_of(
    family: str, name: str, resolution: int, channels: int, width: int, classes: int, d_norm: str, scale: int
) -> nn.Module:
    """The discriminator of a family of super-resolution, for images [N, channels, resolution, resolution].

    name: one of DISCRIMINATORS. scale: of the generator. Raises UsageError for what the family does not support.
    """
    if classes:
        raise UsageError(f"condition: {family} makes images of images and takes no labels, got {classes} classes")
    if d_norm != "none":
        raise UsageError(
            f"d_norm: the discriminators of {family} have norms of their own (unet spectral, vgg batch), got {d_norm!r}"
        )
    if name not in DISCRIMINATORS:
        raise UsageError(f"discriminator: expected one of {', '.join(DISCRIMINATORS)}, got {name!r}")
    if resolution % max(scale, 1):
        raise UsageError(f"resolution: expected a multiple of the scale {scale}, got {resolution}")
    if name == "vgg":
        return VGGDiscriminator(channels, width, resolution)
    if resolution % 8:
        raise UsageError(f"resolution: the U-Net discriminator supports multiples of 8, got {resolution}")
    return UNetDiscriminator(channels, width)


def check_sizes(**sizes: int) -> None:
    """Raise UsageError for a size below 1, by its name."""
    for name, size in sizes.items():
        if size < 1:
            raise UsageError(f"{name}: expected a number >= 1, got {size}")


def _spectral(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    # The hook and not the parametrization: public files have its names, weight_orig, weight_u and weight_v.
    return torch.nn.utils.spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, 1, bias=False))


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
