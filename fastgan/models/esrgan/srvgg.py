"""SRVGGNetCompact, the small network of Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833).

`build` makes the family "compact": it and a discriminator.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.esrgan.bicubic import Bicubic
from fastgan.models.esrgan.discriminators import check_sizes, discriminator_of
from fastgan.nn import fuse


class SRVGGNetCompact(nn.Module):
    """Images [N, channels, H, W] → [N, channels, scale·H, scale·W] float32 in about [0, 1] (clip the output).

    Convolutions with PReLU at the input's resolution and a pixel shuffle by `shuffle`, added to the nearest-neighbor
    upsampled input. blocks: convolutions between the first and the last; 16 or 32 in the public files.

    shuffle: None means `scale`. If it is larger than `scale`, a bicubic downsampling to `scale` follows. The ncnn
    models realesr-animevideov3-x2 and -x3 are the ×4 network with such a layer. The downsampling has no weights, so
    the state dict of such a network is loaded as a ×4 network unless its scale is given. Raises UsageError unless 1 <=
    scale <= shuffle.
    """

    multiple = 1
    range = (0.0, 1.0)

    def __init__(
        self, scale: int = 4, channels: int = 3, width: int = 64, blocks: int = 16, shuffle: int | None = None
    ):
        super().__init__()
        shuffle = scale if shuffle is None else shuffle
        if not 1 <= scale <= shuffle:
            raise UsageError(f"scale: expected a number from 1 to shuffle = {shuffle}, got {scale}")
        check_sizes(channels=channels, width=width)
        if blocks < 0:  # files of none are opened too
            raise UsageError(f"blocks: expected a number >= 0, got {blocks}")
        self.scale, self.channels, self.shuffle = scale, channels, shuffle
        self.source_channels = channels  # called with images, and not with latents
        self.arguments = {"scale": scale, "channels": channels, "width": width, "blocks": blocks, "shuffle": shuffle}
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(blocks):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, channels * shuffle**2, 3, padding=1))
        self.reduce = Bicubic(channels, shuffle, scale) if shuffle > scale else None
        # 1 for each convolution, and 1 if the downsampling overlaps neighboring pixels of the input.
        self.reach = blocks + 2 + (self.reduce is not None and self.reduce.overlaps)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.body(x), self.shuffle)
        y = y + F.interpolate(x, scale_factor=float(self.shuffle), mode="nearest")
        return y if self.reduce is None else self.reduce(y)


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    scale: int = 4,
    blocks: int = 16,
    shuffle: int | None = None,
    discriminator: str = "unet",
    d_width: int | None = None,
) -> tuple[SRVGGNetCompact, nn.Module]:
    """An SRVGGNetCompact and a discriminator.

    resolution: side of the images that the discriminator sees. width: of both networks; d_width: of the discriminator
    where it is another. scale, blocks, shuffle: as in `SRVGGNetCompact`. discriminator: "unet" or "vgg". latent is not
    used. Raises UsageError for sizes and options that they do not support.
    """
    check_sizes(blocks=blocks)
    generator = fuse(SRVGGNetCompact(scale, channels, width, blocks, shuffle))
    width = width if d_width is None else d_width
    return generator, discriminator_of("compact", discriminator, resolution, channels, width, classes, d_norm, scale)
