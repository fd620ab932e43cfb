"""A fully connected pair in the spirit of Goodfellow et al. 2014 (arXiv:1406.2661), for small images."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from fastgan.nn import LinearBlock


class Generator(nn.Module):
    """z [N, latent] → images [N, channels, side, side] in [-1, 1], through width, 2·width and 4·width units."""

    def __init__(self, resolution: int, channels: int, latent: int, width: int):
        super().__init__()
        self.latent, self.image_shape = latent, (channels, resolution, resolution)
        self.layers = nn.Sequential(
            LinearBlock(latent, width),
            LinearBlock(width, 2 * width, norm="batch"),
            LinearBlock(2 * width, 4 * width, norm="batch"),
            LinearBlock(4 * width, prod(self.image_shape), act="tanh"),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.image_shape)


class Discriminator(nn.Module):
    """Images [N, channels, side, side] → logits [N], through 4·width, 2·width and width units."""

    def __init__(self, resolution: int, channels: int, width: int, norm: str = "none"):
        super().__init__()
        edge = "spectral" if norm == "spectral" else "none"
        self.layers = nn.Sequential(
            LinearBlock(channels * resolution * resolution, 4 * width, norm=edge),
            LinearBlock(4 * width, 2 * width, norm=norm),
            LinearBlock(2 * width, width, norm=norm),
            LinearBlock(width, 1, norm=edge, act="linear"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).flatten()


def build(resolution: int, channels: int, latent: int, width: int, d_norm: str) -> tuple[Generator, Discriminator]:
    """Generator and critic with mirrored widths."""
    return Generator(resolution, channels, latent, width), Discriminator(resolution, channels, width, d_norm)
