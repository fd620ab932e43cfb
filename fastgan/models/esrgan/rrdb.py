"""RRDBNet: dense blocks within residual blocks, two nearest-neighbor doublings (ESRGAN, arXiv:1809.00219)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError

#: Slope of every leaky ReLU, and what every residual is multiplied with.
SLOPE = RESIDUAL = 0.2
#: scale → side of the squares of pixels that become channels before the trunk, which always enlarges by 4.
UNSHUFFLE = {1: 4, 2: 2, 4: 1}


class DenseBlock(nn.Module):
    """[N, width, H, W] → the same. Five convolutions, each on all that came before; the last one is the residual."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.conv1 = _conv(width, growth)
        self.conv2 = _conv(width + growth, growth)
        self.conv3 = _conv(width + 2 * growth, growth)
        self.conv4 = _conv(width + 3 * growth, growth)
        self.conv5 = _conv(width + 4 * growth, width)
        for conv in self.children():
            assert isinstance(conv, nn.Conv2d)
            # Small at the start, so that the block begins near the identity (section 3.1 of the paper). Uniform, of
            # the normal one's variance: that one imports half of torch when a network is made without its weights.
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
    """Three dense blocks and a residual around them."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=RESIDUAL)


class RRDBNet(nn.Module):
    """Images [N, channels, H, W] → [N, channels, scale·H, scale·W] in float32, [0, 1] (clip: it may leave the range).

    scale: 1, 2 or 4. The trunk always enlarges by 4; for 2 and 1 the squares of 2×2 or 4×4 pixels become channels
    first, so H and W are multiples of 2 or 4 (`multiple`). width: feature maps. growth: what each convolution of a
    dense block adds. blocks: RRDBs in the trunk. Raises UsageError.
    """

    range = (0.0, 1.0)

    def __init__(self, scale: int = 4, channels: int = 3, width: int = 64, growth: int = 32, blocks: int = 23):
        super().__init__()
        if scale not in UNSHUFFLE:
            raise UsageError(f"scale: expected 1, 2 or 4, got {scale}")
        self.scale, self.channels, self.multiple = scale, channels, UNSHUFFLE[scale]
        # Pixels of the trunk: one for each convolution before the doublings (15 in an RRDB), two for those behind.
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


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


def _act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE, inplace=True)
