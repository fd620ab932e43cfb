"""Super-resolution networks of ESRGAN and Real-ESRGAN, with the state dict names of their public checkpoints.

`RRDBNet` is the generator of ESRGAN (Wang et al. 2018, arXiv:1809.00219), `SRVGGNetCompact` the small network of
Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833). Both map images float [N, channels, H, W] in [0, 1] to
[N, channels, scale·H, scale·W] in about [0, 1] (clip the output). Their attributes:

scale, channels: as above; source_channels: the same as channels. multiple: H and W must be multiples of it. range:
(0, 1), of the values. reach: radius of the receptive field in input pixels, along rows and columns: an output pixel
depends on input pixels up to this far away.

`UNetDiscriminator` (spectral norms) is the discriminator of Real-ESRGAN, `VGGDiscriminator` that of SRGAN and ESRGAN.
They map images [N, channels, H, W] to logits.

`load` opens a weight file and builds the network that it belongs to; `from_state` does so from a state dict.
"""

from fastgan.models.esrgan.discriminators import UNetDiscriminator, VGGDiscriminator
from fastgan.models.esrgan.files import load
from fastgan.models.esrgan.rrdb import RRDBNet
from fastgan.models.esrgan.srvgg import SRVGGNetCompact
from fastgan.models.esrgan.state import from_state

__all__ = ["RRDBNet", "SRVGGNetCompact", "UNetDiscriminator", "VGGDiscriminator", "from_state", "load"]
