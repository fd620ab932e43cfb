"""RRDBNet, the generator of ESRGAN (Wang et al. 2018, arXiv:1809.00219): residual-in-residual dense blocks.

`build` makes the family "esrgan": it and a discriminator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.esrgan.discriminators import check_sizes, discriminator_of
from fastgan.nn import fuse

#: Negative slope of every leaky ReLU, and factor of every residual.
SLOPE = RESIDUAL = 0.2
#: scale → factor of the pixel unshuffle before the network, which itself upsamples by 4.
UNSHUFFLE = {1: 4, 2: 2, 4: 1}


class DenseBlock(nn.Module):
    """[N, width, H, W] → the same: x + 0.2 · (five convolutions, each of the input and all outputs before it)."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.conv1 = _conv(width, growth)
        self.conv2 = _conv(width + growth, growth)
        self.conv3 = _conv(width + 2 * growth, growth)
        self.conv4 = _conv(width + 3 * growth, growth)
        self.conv5 = _conv(width + 4 * growth, width)
        for conv in self.children():
            assert isinstance(conv, nn.Conv2d)
            # A tenth of the usual weights, so that the block starts near the identity (section 3.1 of the paper).
            # Uniform with the variance of the normal distribution: on the "meta" device the normal one imports
            # much of PyTorch.
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            with torch.no_grad():
                conv.weight.mul_(0.1)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x1 = _act(self.conv1(x))
        x2 = _act(self.conv2(torch.cat((x, x1), 1)))
        x3 = _act(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = _act(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        return torch.add(x, self.conv5(torch.cat((x, x1, x2, x3, x4), 1)), alpha=RESIDUAL)


class RRDB(nn.Module):
    """[N, width, H, W] → [N, width, H, W]: x + 0.2 · (three dense blocks)."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=RESIDUAL)


class RRDBNet(nn.Module):
    """Images [N, channels, H, W] → [N, channels, scale·H, scale·W] float32 in about [0, 1] (clip the output).

    scale: 1, 2 or 4. The network upsamples by 4; for scales 2 and 1 a pixel unshuffle by 2 or 4 comes first, so H and
    W must be multiples of 2 or 4 (`multiple`). width: channels of the feature maps. growth: channels that each
    convolution of a dense block adds. blocks: number of RRDBs. Raises UsageError for another scale.
    """

    range = (0.0, 1.0)

    def __init__(self, scale: int = 4, channels: int = 3, width: int = 64, growth: int = 32, blocks: int = 23):
        super().__init__()
        if scale not in UNSHUFFLE:
            raise UsageError(f"scale: expected 1, 2 or 4, got {scale}")
        check_sizes(channels=channels, width=width, growth=growth)
        if blocks < 0:  # files of none are opened, and refused for what they lack
            raise UsageError(f"blocks: expected a number >= 0, got {blocks}")
        self.scale, self.channels, self.multiple = scale, channels, UNSHUFFLE[scale]
        self.source_channels = channels  # called with images, and not with latents
        self.arguments = {"scale": scale, "channels": channels, "width": width, "growth": growth, "blocks": blocks}
        # In pixels after the unshuffle: 1 for each convolution before the upsampling (15 in an RRDB), 2 for those
        # after it.
        self.reach = self.multiple * (15 * blocks + 4)
        self.conv_first = _conv(channels * self.multiple**2, width)
        self.body = nn.Sequential(*(RRDB(width, growth) for _ in range(blocks)))
        self.conv_body = _conv(width, width)
        self.conv_up1 = _conv(width, width)
        self.conv_up2 = _conv(width, width)
        self.conv_hr = _conv(width, width)
        self.conv_last = _conv(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.multiple > 1:
            x = F.pixel_unshuffle(x, self.multiple)
        x = self.conv_first(x)
        x = x + self.conv_body(self.body(x))
        x = _act(self.conv_up1(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        x = _act(self.conv_up2(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.conv_last(_act(self.conv_hr(x)))


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    scale: int = 4,
    blocks: int = 23,
    growth: int = 32,
    discriminator: str = "unet",
    d_width: int | None = None,
) -> tuple[RRDBNet, nn.Module]:
    """An RRDBNet and a discriminator.

    resolution: side of the images that the discriminator sees. width: of both networks; d_width: of the discriminator
    where it is another. scale, blocks, growth: as in `RRDBNet`. discriminator: "unet" or "vgg". latent is not used.
    Raises UsageError for sizes and options that they do not support.
    """
    check_sizes(blocks=blocks)
    generator = fuse(RRDBNet(scale, channels, width, growth, blocks))
    width = width if d_width is None else d_width
    return generator, discriminator_of("esrgan", discriminator, resolution, channels, width, classes, d_norm, scale)


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


def _act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE, inplace=True)
