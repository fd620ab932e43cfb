"""CUT (Park et al. 2020, arXiv:2007.15651): CycleGAN's generator in one direction, and the heads of its patches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import normalize

from fastgan.errors import UsageError
from fastgan.models.translation.cyclegan import check_resolution
from fastgan.models.translation.discriminators import PatchDiscriminator
from fastgan.models.translation.layers import check_family
from fastgan.models.translation.resnet import ResNetGenerator


class PatchHeads(nn.Module):
    """Features [N, C_i, H_i, W_i] of several layers, and locations int64 [N, P_i] in each, counted along rows →
    vectors [N, P_i, width] of length 1: of each layer by a network of two layers of its own."""

    def __init__(self, channels: Sequence[int], width: int = 256):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(number, width), nn.ReLU(), nn.Linear(width, width)) for number in channels
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0.0, 0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor], locations: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for head, x, places in zip(self.heads, features, locations, strict=True):
            pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
            chosen = pixels.gather(1, places[:, :, None].expand(-1, -1, x.shape[1]))
            found.append(normalize(head(chosen).float(), dim=2, eps=1e-7))
        return found


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
    head_width: int = 256,
) -> tuple[nn.ModuleDict, PatchDiscriminator]:
    """A generator "a_to_b" with the "heads" that are trained with it, and a discriminator of images of b.

    head_width: of the vectors of patches. The other options are those of "cyclegan".
    """
    check_family("cut", classes, d_norm)
    check_resolution("cut", resolution)
    if head_width < 1:
        raise UsageError(f"head_width: expected a number >= 1, got {head_width}")
    blocks = blocks or (9 if resolution >= 256 else 6)
    generator = ResNetGenerator(source_channels, channels, blocks, width, norm, dropout)
    heads = PatchHeads(generator.feature_channels, head_width)
    discriminator = PatchDiscriminator(channels, 0, layers, d_width or width, norm)
    return nn.ModuleDict({"a_to_b": generator, "heads": heads}), discriminator
