"""The convolutional pair of Radford, Metz and Chintala 2016 (arXiv:1511.06434), for 28, 32, 64 and further doublings.

Strided convolutions, no pooling, batch norm and ReLU in the generator, leaky ReLU with slope 0.2 in the critic, weights
from N(0, 0.02).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.nn import ConvBlock, ConvTower, LinearBlock, group_spectral_norms


def levels(resolution: int) -> tuple[int, int]:
    """(side of the smallest feature map, doublings up to the resolution): 28 → (7, 2), 32 → (4, 3), 64 → (4, 4)."""
    for side in (4, 7):
        doublings = (resolution // side).bit_length() - 1
        if doublings >= 2 and side << doublings == resolution:
            return side, doublings
    raise UsageError(f"resolution: dcgan needs 28, 32, 64 or a doubling of one of these, got {resolution}")


class Generator(nn.Module):
    """z [N, latent] → images [N, channels, side, side] in [-1, 1]. width: channels before the last layer."""

    def __init__(self, resolution: int, channels: int, latent: int, width: int):
        super().__init__()
        side, doublings = levels(resolution)
        self.latent, self.image_shape = latent, (channels, resolution, resolution)
        widest = width << (doublings - 1)
        self.start = ConvBlock(latent, widest, side, transposed=True, norm="batch", act="relu")
        self.blocks = nn.Sequential(*(
            ConvBlock(widest >> i, widest >> (i + 1), 4, stride=2, padding=1, transposed=True, norm="batch", act="relu")
            for i in range(doublings - 1)
        ))  # fmt: skip
        self.to_image = ConvBlock(width, channels, 4, stride=2, padding=1, transposed=True, act="tanh")
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:
        return self.to_image(self.blocks(self.start(z[:, :, None, None])))


class Discriminator(nn.Module):
    """Images [N, channels, side, side] → logits [N]. Batch norm is left out of the first and the last layer."""

    def __init__(self, resolution: int, channels: int, width: int, norm: str = "none"):
        super().__init__()
        side, doublings = levels(resolution)
        edge = "spectral" if norm == "spectral" else "none"
        blocks = [ConvBlock(channels, width, 4, stride=2, padding=1, norm=edge)]
        for i in range(doublings - 1):
            blocks.append(ConvBlock(width << i, width << (i + 1), 4, stride=2, padding=1, norm=norm))
        self.blocks = ConvTower(*blocks)
        self.to_logit = LinearBlock((width << (doublings - 1)) * side * side, 1, norm=edge, act="linear")
        self.apply(_initialise)
        group_spectral_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_logit(self.blocks(x).flatten(1)).flatten()


def build(resolution: int, channels: int, latent: int, width: int, d_norm: str) -> tuple[Generator, Discriminator]:
    """Generator and critic with mirrored widths."""
    return Generator(resolution, channels, latent, width), Discriminator(resolution, channels, width, d_norm)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        # Under spectral norm the parameter is the parametrisation's original, and `weight` is computed from it.
        for name, parameter in module.named_parameters():
            if name != "bias":
                nn.init.normal_(parameter, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        with torch.no_grad():
            module.weight.normal_(1.0, 0.02)
            module.bias.zero_()
