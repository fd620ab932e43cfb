"""CycleGAN (Zhu et al. 2017, arXiv:1703.10593): ResNets from each domain to the other, and a PatchGAN for each."""

from __future__ import annotations

from torch import nn

from fastgan.errors import UsageError
from fastgan.models.translation.discriminators import PatchDiscriminator
from fastgan.models.translation.layers import check_family
from fastgan.models.translation.resnet import ResNetGenerator


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    source_channels: int = 3,
    blocks: int | None = None,
    norm: str = "instance",
    dropout: bool = False,
    layers: int = 3,
    d_width: int | None = None,
) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """Generators "a_to_b" and "b_to_a", from images of `source_channels` to images of `channels` and back, and
    discriminators "a" and "b" of images of each domain.

    blocks: of the generators, 9 from 256 pixels on and 6 below where it is None. norm: of all networks, "instance",
    "batch" or "none". dropout: in the generators' blocks. layers: halvings in the discriminators. width: feature maps
    of the first layers; d_width: of the discriminators' where it is another. latent is not used. Raises UsageError for
    sizes and options that there are not.
    """
    check_family("cyclegan", classes, d_norm)
    check_resolution("cyclegan", resolution)
    blocks = blocks or (9 if resolution >= 256 else 6)
    ways = {"a_to_b": (source_channels, channels), "b_to_a": (channels, source_channels)}
    generators = {name: ResNetGenerator(*both, blocks, width, norm, dropout) for name, both in ways.items()}
    discriminators = {
        name: PatchDiscriminator(number, 0, layers, d_width or width, norm)
        for name, number in (("a", source_channels), ("b", channels))
    }
    return nn.ModuleDict(generators), nn.ModuleDict(discriminators)


def check_resolution(family: str, resolution: int) -> None:
    """Raise UsageError for images that two halvings do not fit, or that the reflected border is larger than."""
    if resolution < 16 or resolution % 4:
        raise UsageError(f"resolution: {family} supports multiples of 4 from 16, got {resolution}")
