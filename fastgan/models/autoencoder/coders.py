"""Encoder and decoder of VQGAN (Esser et al. 2021, arXiv:2012.09841), and of latent diffusion (arXiv:2112.10752).

The names of their weights are those of the public checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.autoencoder.layers import Downsample, Level, Middle, Upsample, group_norm


class Encoder(nn.Module):
    """Images [N, channels, H, W] → features [N, z_channels, H/f, W/f], f = 2^(levels − 1).

    width: channels at the full resolution; multipliers: by which they are multiplied at each level; blocks: residual
    blocks of a level; attention: numbers of the levels with self-attention, from 0.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        z_channels: int,
    ):
        super().__init__()
        check(multipliers, attention, channels=channels, width=width, blocks=blocks, z_channels=z_channels)
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList()
        before, last = width, len(multipliers) - 1
        for i, multiplier in enumerate(multipliers):
            after = width * multiplier
            resample = Downsample(after) if i < last else None
            self.down.append(Level(before, after, blocks, i in attention, resample, "downsample"))
            before = after
        self.mid = Middle(before)
        self.norm_out, self.conv_out = group_norm(before), nn.Conv2d(before, z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Features [N, z_channels, h, w] → images [N, channels, f·h, f·w]; the arguments are those of `Encoder`."""

    def __init__(
        self,
        channels: int,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        z_channels: int,
    ):
        super().__init__()
        check(multipliers, attention, channels=channels, width=width, blocks=blocks, z_channels=z_channels)
        before = width * multipliers[-1]
        self.conv_in = nn.Conv2d(z_channels, before, 3, padding=1)
        self.mid = Middle(before)
        levels: list[nn.Module] = []
        for i in reversed(range(len(multipliers))):
            after = width * multipliers[i]
            resample = Upsample(after) if i > 0 else None
            levels.insert(0, Level(before, after, blocks + 1, i in attention, resample, "upsample"))
            before = after
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = group_norm(before), nn.Conv2d(before, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return self.conv_out(self.hidden(z))

    def hidden(self, z: Tensor) -> Tensor:
        """The input of the last convolution."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return F.silu(self.norm_out(x))


def check(multipliers: Sequence[int], attention: Sequence[int], **sizes: int) -> None:
    """Raise UsageError for sizes below 1, and for levels that do not exist."""
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"{name}: expected a number >= 1, got {value}")
    if not multipliers or min(multipliers) < 1:
        raise UsageError(f"multipliers: expected numbers >= 1, one for each level, got {list(multipliers)}")
    if any(level >= len(multipliers) for level in attention):
        raise UsageError(f"attention: expected levels from 0 to {len(multipliers) - 1}, got {list(attention)}")
