"""Networks of image translation, with the state dict names of the public pix2pix, CycleGAN and pix2pixHD checkpoints.

`UNetGenerator` is the generator of pix2pix (Isola et al. 2017, arXiv:1611.07004), `ResNetGenerator` that of CycleGAN
(Zhu et al. 2017, arXiv:1703.10593) and the global generator of pix2pixHD (Wang et al. 2018, arXiv:1711.11585). They map
images float [N, channels, H, W] to [N, out_channels, H, W], both in [-1, 1]. Their attributes:

channels, source_channels: of the input. out_channels: of the output. scale: 1. multiple: H and W must be multiples of
it. range: (-1, 1), of the values.

`PatchDiscriminator` (70×70 pixels for each logit with three layers), `PixelDiscriminator` and `MultiScaleDiscriminator`
(pix2pixHD) map images [N, channels, H, W], and sources [N, source_channels, H, W] where they are conditional, to maps
of logits. `fastgan.models.build` makes a generator and a discriminator of the families "pix2pix" and "pix2pixhd".
"""

from fastgan.models.translation.discriminators import MultiScaleDiscriminator, PatchDiscriminator, PixelDiscriminator
from fastgan.models.translation.resnet import ResNetGenerator
from fastgan.models.translation.unet import UNetGenerator

__all__ = [
    "MultiScaleDiscriminator",
    "PatchDiscriminator",
    "PixelDiscriminator",
    "ResNetGenerator",
    "UNetGenerator",
]
