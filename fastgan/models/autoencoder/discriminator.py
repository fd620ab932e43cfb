"""The discriminator of patches that autoencoders are trained against: pix2pix's without source."""

from __future__ import annotations

from torch import nn

from fastgan.errors import UsageError
from fastgan.models.translation import PatchDiscriminator


def patch_discriminator(
    channels: int, resolution: int, width: int, layers: int, norm: str, classes: int
) -> PatchDiscriminator:
    """`PatchDiscriminator` for images of a side. norm: "none" or "batch" (VQGAN). Raises UsageError for others."""
    if classes:
        raise UsageError(f"classes: an autoencoder takes no labels, got {classes}; leave condition and classes out")
    if norm not in ("none", "batch"):
        raise UsageError(f"d_norm: the discriminator of an autoencoder supports none and batch, got {norm!r}")
    # Two convolutions of stride 1 follow, each of which takes one pixel off.
    if layers < 1 or resolution >> layers < 3:
        raise UsageError(f"d_layers: expected halvings that leave 3 of {resolution} pixels, got {layers}")
    return PatchDiscriminator(channels, layers=layers, width=width, norm=norm)


def decoder_of(kind: str, whole: nn.Module, tiny: nn.Module) -> nn.Module:
    """One of two decoders by its name. Raises UsageError for another."""
    if kind not in ("full", "tiny"):
        raise UsageError(f"decoder: expected one of full, tiny, got {kind!r}")
    return whole if kind == "full" else tiny
