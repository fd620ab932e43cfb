"""The generators and discriminators that end_to_end.py trains, in plain PyTorch, after the papers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

LATENT = 128


def dcgan_generator(side: int, width: int = 64) -> nn.Sequential:
    """Radford et al. 2016 (arXiv:1511.06434): z [N, 128] → [N, 3, side, side]."""
    doublings = (side // 4).bit_length() - 2
    channels = width << doublings
    layers: list[nn.Module] = [nn.Unflatten(1, (LATENT, 1, 1))]
    layers += [nn.ConvTranspose2d(LATENT, channels, 4, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True)]
    for _ in range(doublings):
        layers += [nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(channels // 2), nn.ReLU(True)]
        channels //= 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh())


def dcgan_discriminator(side: int, batch_norm: bool, width: int = 64) -> nn.Sequential:
    """DCGAN's discriminator: strided convolutions down to 4×4, then one logit for each image."""
    channels, layers = 3, []
    for i in range((side // 4).bit_length() - 1):
        out = width << i
        layers += [nn.Conv2d(channels, out, 4, 2, 1, bias=not (batch_norm and i))]
        layers += [nn.BatchNorm2d(out)] if batch_norm and i else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 1))


class UpBlock(nn.Module):
    """Residual block of SNGAN's generator (arXiv:1802.05957, table 4), doubling the side."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1, self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1), nn.Conv2d(channels, channels, 3, 1, 1)
        self.shortcut = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2))
        y = self.conv2(F.relu(self.norm2(y)))
        return y + self.shortcut(F.interpolate(x, scale_factor=2))


class DownBlock(nn.Module):
    """Residual block of SNGAN's discriminator. halve: halves the side. first: without a ReLU before the block."""

    def __init__(self, channels: int, out: int, halve: bool, first: bool = False):
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(channels, out, 3, 1, 1))
        self.conv2 = spectral_norm(nn.Conv2d(out, out, 3, 1, 1))
        self.shortcut = spectral_norm(nn.Conv2d(channels, out, 1)) if halve else None
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.shortcut is None:
            return x + y
        return F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))


class ResnetGenerator(nn.Module):
    """SNGAN's for 32×32."""

    def __init__(self, channels: int = 256):
        super().__init__()
        self.start = nn.Linear(LATENT, channels * 16)
        self.blocks = nn.Sequential(*(UpBlock(channels) for _ in range(3)))
        self.norm, self.to_image = nn.BatchNorm2d(channels), nn.Conv2d(channels, 3, 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.blocks(self.start(z).unflatten(1, (-1, 4, 4)))
        return torch.tanh(self.to_image(F.relu(self.norm(x))))


class ResnetDiscriminator(nn.Module):
    """SNGAN's for 32×32."""

    def __init__(self, channels: int = 128):
        super().__init__()
        self.blocks = nn.Sequential(
            DownBlock(3, channels, True, first=True),
            DownBlock(channels, channels, True),
            DownBlock(channels, channels, False),
            DownBlock(channels, channels, False),
        )
        self.head = spectral_norm(nn.Linear(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(x)).sum((2, 3)))
