"""pix2pix (Isola et al. 2017, arXiv:1611.07004): a U-Net or ResNet from sources to images, and a PatchGAN."""

from __future__ import annotations

from torch import nn

from fastgan.errors import UsageError
from fastgan.models.translation.discriminators import MultiScaleDiscriminator, PatchDiscriminator, PixelDiscriminator
from fastgan.models.translation.layers import check_family
from fastgan.models.translation.resnet import ResNetGenerator
from fastgan.models.translation.unet import LEAST_LEVELS, UNetGenerator

GENERATORS = ("unet", "resnet")
DISCRIMINATORS = ("patch", "pixel", "multi-scale")
#: Halvings of the U-Net: the paper's, of 256 pixels to one.
LEVELS = 8


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    source_channels: int = 3,
    generator: str = "unet",
    discriminator: str = "patch",
    norm: str = "batch",
    dropout: bool = True,
    blocks: int | None = None,
    layers: int = 3,
    scales: int = 3,
    d_width: int | None = None,
) -> tuple[nn.Module, nn.Module]:
    """A generator from sources to images, and a discriminator that sees an image beside its source.

    generator: "unet", with as many halvings as the resolution allows, 8 at most, or "resnet". discriminator: "patch"
    (70×70 pixels with three `layers`), "pixel" or "multi-scale", at so many `scales`. norm: of both networks, "batch",
    "instance" or "none". dropout: in the generator, its only noise. blocks: of "resnet", 9 from 256 pixels on and 6
    below where it is None. width: feature maps of the first layers; d_width: of the discriminator's where it is
    another. latent is not used. Raises UsageError for sizes and options that there are not.
    """
    check_family("pix2pix", classes, d_norm)
    if generator not in GENERATORS:
        raise UsageError(f"generator: expected {' or '.join(GENERATORS)}, got {generator!r}")
    if discriminator not in DISCRIMINATORS:
        raise UsageError(f"discriminator: expected {', '.join(DISCRIMINATORS)}, got {discriminator!r}")
    return (
        _generator(generator, source_channels, channels, resolution, width, norm, dropout, blocks),
        _discriminator(discriminator, channels, source_channels, d_width or width, norm, layers, scales),
    )


def _generator(
    name: str, source_channels: int, channels: int, resolution: int, width: int, norm: str, dropout: bool,
    blocks: int | None,
) -> nn.Module:  # fmt: skip
    if name == "resnet":
        if resolution < 16 or resolution % 4:
            raise UsageError(f"resolution: the ResNet supports multiples of 4 from 16, got {resolution}")
        blocks = blocks or (9 if resolution >= 256 else 6)
        return ResNetGenerator(source_channels, channels, blocks, width, norm, dropout)
    levels = min((resolution & -resolution).bit_length() - 1, LEVELS)
    if levels < LEAST_LEVELS:
        raise UsageError(
            f"resolution: the U-Net supports multiples of {1 << LEAST_LEVELS}, got {resolution}; the generator 'resnet'"
            " supports those of 4"
        )
    return UNetGenerator(source_channels, channels, levels, width, norm, dropout)


def _discriminator(
    name: str, channels: int, source_channels: int, width: int, norm: str, layers: int, scales: int
) -> nn.Module:
    if name == "pixel":
        return PixelDiscriminator(channels, source_channels, width, norm)
    if name == "multi-scale":
        return MultiScaleDiscriminator(channels, source_channels, scales, layers, width, norm)
    return PatchDiscriminator(channels, source_channels, layers, width, norm)
