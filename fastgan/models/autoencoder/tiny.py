"""A tiny autoencoder of convolutions and ReLU, as those that preview latents of diffusion models (TAESD).

Its decoder can stand behind the encoder of another autoencoder: `decoder="tiny"` there.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.autoencoder.base import Autoencoder
from fastgan.models.autoencoder.discriminator import patch_discriminator
from fastgan.nn import fuse


class Block(nn.Module):
    """[N, inputs, H, W] → [N, outputs, H, W]: three convolutions with ReLU between them, added to the input; ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )  # fmt: skip
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + self.skip(x)).relu()


class Clamp(nn.Module):
    """Latents of any size, softly within ±3."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 3).tanh() * 3


class TinyEncoder(nn.Sequential):
    """Images [N, channels, H, W] → latents [N, latent, H/2^halvings, W/2^halvings]."""

    def __init__(self, channels: int, latent: int, width: int, halvings: int, blocks: int):
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), Block(width, width)]
        for _ in range(halvings):
            layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            layers += [Block(width, width) for _ in range(blocks)]
        super().__init__(*layers, nn.Conv2d(width, latent, 3, padding=1))


class TinyDecoder(nn.Sequential):
    """Latents [N, latent, h, w] → images [N, channels, 2^halvings · h, 2^halvings · w]."""

    def __init__(self, channels: int, latent: int, width: int, halvings: int, blocks: int):
        layers: list[nn.Module] = [Clamp(), nn.Conv2d(latent, width, 3, padding=1), nn.ReLU()]
        for _ in range(halvings):
            layers += [Block(width, width) for _ in range(blocks)]
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        super().__init__(*layers, Block(width, width), nn.Conv2d(width, channels, 3, padding=1))


class TinyAutoencoder(Autoencoder):
    """An autoencoder of `TinyEncoder` and `TinyDecoder`, whose latents are not regularized.

    width: channels of all layers. halvings: of the image. blocks: residual blocks between two of them, 3 in TAESD.
    """

    def __init__(
        self,
        channels: int = 3,
        latent: int = 4,
        width: int = 64,
        halvings: int = 3,
        blocks: int = 3,
        freeze: str = "none",
    ):
        super().__init__(channels, latent, 1 << halvings, freeze)
        for name, value in (("width", width), ("halvings", halvings), ("blocks", blocks)):
            if value < 1:
                raise UsageError(f"{name}: expected a number >= 1, got {value}")
        self.arguments = {
            "channels": channels, "latent": latent, "width": width, "halvings": halvings, "blocks": blocks,
        }  # fmt: skip
        self.encoder = TinyEncoder(channels, latent, width, halvings, blocks)
        self.decoder = TinyDecoder(channels, latent, width, halvings, blocks)
        self.frozen()
        fuse(self)


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    halvings: int = 3,
    blocks: int = 3,
    freeze: str = "none",
    d_width: int = 64,
    d_layers: int = 3,
) -> tuple[nn.Module, nn.Module]:
    """A tiny autoencoder and its discriminator of patches.

    latent: channels of the latents. halvings, blocks: see `TinyAutoencoder`. freeze: none, or encoder, which trains
    the decoder alone. d_width, d_layers: width and halvings of the discriminator.
    """
    network = TinyAutoencoder(channels, latent, width, halvings, blocks, freeze)
    network.check_size(resolution)
    return network, patch_discriminator(channels, resolution, d_width, d_layers, d_norm, classes)
