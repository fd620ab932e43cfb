"""A generator and a discriminator by the name of their paper."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fastgan.errors import UsageError
from fastgan.models.translation.discriminators import MultiScaleDiscriminator, PatchDiscriminator
from fastgan.models.translation.resnet import ResNetGenerator
from fastgan.models.translation.unet import UNetGenerator


def build(
    name: str, *, source_channels: int = 3, channels: int = 3, resolution: int = 256, width: int = 64
) -> tuple[nn.Module, nn.Module]:
    """A new generator from sources to images and its discriminator, with the sizes of a paper.

    name: "pix2pix", "cyclegan" (for one of its two directions; its discriminator sees images alone) or "pix2pixhd" (the
    global generator). source_channels, channels: of sources and of images. resolution: the shorter side of the images
    that they are trained with, in pixels: pix2pix halves it until one is left, CycleGAN has 6 blocks below 256 and 9
    from there on. width: feature maps of the first layers. Raises UsageError for an unknown name and sizes below the
    least.
    """
    if name not in PAIRS:
        raise UsageError(f"name: expected one of {', '.join(PAIRS)}, got {name!r}")
    return PAIRS[name](source_channels, channels, resolution, width)


def _pix2pix(source_channels: int, channels: int, resolution: int, width: int) -> tuple[nn.Module, nn.Module]:
    levels = max(resolution, 1).bit_length() - 1
    if levels < 5 or resolution % (1 << min(levels, 8)):
        raise UsageError(f"resolution: pix2pix supports 32, 64, 128 and multiples of 256, got {resolution}")
    generator = UNetGenerator(source_channels, channels, min(levels, 8), width)
    return generator, PatchDiscriminator(channels, source_channels, width=width)


def _cyclegan(source_channels: int, channels: int, resolution: int, width: int) -> tuple[nn.Module, nn.Module]:
    if resolution < 16 or resolution % 4:
        raise UsageError(f"resolution: cyclegan supports multiples of 4 from 16, got {resolution}")
    generator = ResNetGenerator(source_channels, channels, 9 if resolution >= 256 else 6, width)
    return generator, PatchDiscriminator(channels, width=width, norm="instance")


def _pix2pixhd(source_channels: int, channels: int, resolution: int, width: int) -> tuple[nn.Module, nn.Module]:
    if resolution < 32 or resolution % 16:
        raise UsageError(f"resolution: pix2pixhd supports multiples of 16 from 32, got {resolution}")
    generator = ResNetGenerator(source_channels, channels, 9, width, downsamplings=4)
    return generator, MultiScaleDiscriminator(channels, source_channels, width=width)


#: Name → its networks for (source_channels, channels, resolution, width).
PAIRS: dict[str, Callable[[int, int, int, int], tuple[nn.Module, nn.Module]]] = {
    "pix2pix": _pix2pix,
    "cyclegan": _cyclegan,
    "pix2pixhd": _pix2pixhd,
}
