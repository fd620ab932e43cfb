"""U-Net, the generator of pix2pix (Isola et al. 2017, arXiv:1611.07004, section 6.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.translation.layers import SLOPE, check, has_bias, initialize, norm_layer
from fastgan.nn import fuse

#: The fewest levels: width doubles from the first to the fourth.
LEAST_LEVELS = 5
DROPOUT = 0.5


class Level(nn.Module):
    """[N, C, H, W] → the input after a leaky ReLU, concatenated with what is made of it at half the size.

    The innermost level has no inner one, and no norm before its narrowest feature map, which may be a single pixel.
    """

    def __init__(self, channels: int, inner_channels: int, inner: nn.Module | None, norm: str, dropout: bool):
        super().__init__()
        bias = has_bias(norm)
        down = nn.Conv2d(channels, inner_channels, 4, 2, 1, bias=bias)
        below = [] if inner is None else [norm_layer(norm, inner_channels), inner]
        # From the inner level come its input and its result.
        up_channels = inner_channels if inner is None else 2 * inner_channels
        up = nn.ConvTranspose2d(up_channels, channels, 4, 2, 1, bias=bias)
        last = [nn.Dropout(DROPOUT)] if dropout else []
        self.model = nn.Sequential(
            nn.LeakyReLU(SLOPE, inplace=True),
            down,
            *below,
            nn.ReLU(inplace=True),
            up,
            norm_layer(norm, channels),
            *last,
        )

    def forward(self, x: Tensor) -> Tensor:
        activation, *layers = self.model
        skip = y = activation(x)
        for layer in layers:
            y = layer(y)
        return torch.cat([skip, y], 1)


class Outermost(nn.Module):
    """Images [N, channels, H, W] → [N, out_channels, H, W]: a level without leaky ReLU, norms and skip connection."""

    def __init__(self, channels: int, out_channels: int, width: int, inner: nn.Module, norm: str):
        super().__init__()
        down = nn.Conv2d(channels, width, 4, 2, 1, bias=has_bias(norm))
        self.model = nn.Sequential(
            down, inner, nn.ReLU(inplace=True), nn.ConvTranspose2d(2 * width, out_channels, 4, 2, 1), nn.Tanh()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class UNetGenerator(nn.Module):
    """Images [N, channels, H, W] → [N, out_channels, H, W] in [-1, 1]; H and W are multiples of 2^levels.

    levels: halvings of the image, at least 5; 8 for 256×256 in the paper, where the narrowest map is one pixel. width:
    feature maps after the first one; 2, 4, and 8 times as many at the next ones. norm: "batch" (pix2pix), "instance" or
    "none". dropout: with probability 0.5 after all levels with 8 · width feature maps but the innermost: the only noise
    of the generator, which the paper keeps at test time. It follows the mode of the module: `generator.eval()` has
    none, and takes the stored statistics of batch norms; `generator.train()` has noise, and statistics of the batch.
    """

    scale = 1
    range = (-1.0, 1.0)

    def __init__(
        self,
        channels: int = 3,
        out_channels: int = 3,
        levels: int = 8,
        width: int = 64,
        norm: str = "batch",
        dropout: bool = True,
    ):
        super().__init__()
        check(norm, channels=channels, out_channels=out_channels, width=width)
        if levels < LEAST_LEVELS:
            raise UsageError(f"levels: expected a number >= {LEAST_LEVELS}, got {levels}")
        self.arguments = {
            "channels": channels, "out_channels": out_channels, "levels": levels, "width": width, "norm": norm,
            "dropout": dropout,
        }  # fmt: skip
        self.channels = self.source_channels = channels
        self.out_channels, self.levels, self.multiple = out_channels, levels, 1 << levels
        level = Level(8 * width, 8 * width, None, norm, False)
        for _ in range(levels - LEAST_LEVELS):
            level = Level(8 * width, 8 * width, level, norm, dropout)
        for factor in (4, 2, 1):
            level = Level(factor * width, 2 * factor * width, level, norm, False)
        self.model = Outermost(channels, out_channels, width, level, norm)
        self.apply(initialize)
        fuse(self)

    def forward(self, source: Tensor) -> Tensor:
        return self.model(source)
