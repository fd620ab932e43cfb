"""pix2pixHD (Wang et al. 2018, arXiv:1711.11585): its global generator, and discriminators at several scales."""

from __future__ import annotations

from fastgan.errors import UsageError
from fastgan.models.translation.discriminators import MultiScaleDiscriminator
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
    blocks: int = 9,
    downsamplings: int = 4,
    norm: str = "instance",
    layers: int = 3,
    scales: int = 3,
    d_width: int | None = None,
) -> tuple[ResNetGenerator, MultiScaleDiscriminator]:
    """The global generator from sources to images, and a discriminator of both at so many `scales`.

    blocks, downsamplings: of the generator. layers: halvings in the discriminator at each scale. norm: of both
    networks, "instance", "batch" or "none". width: feature maps of the first layers; d_width: of the
    discriminator's where it is another. latent is not used. Raises UsageError for sizes and options that there are not.
    """
    check_family("pix2pixhd", classes, d_norm)
    step = 1 << downsamplings
    if resolution < 2 * step or resolution % step:
        raise UsageError(f"resolution: pix2pixhd supports multiples of {step} from {2 * step}, got {resolution}")
    generator = ResNetGenerator(source_channels, channels, blocks, width, norm, downsamplings=downsamplings)
    return generator, MultiScaleDiscriminator(channels, source_channels, scales, layers, d_width or width, norm)
