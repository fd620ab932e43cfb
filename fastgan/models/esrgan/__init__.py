"""Super-resolution: the networks of ESRGAN and Real-ESRGAN, with the layouts of their public checkpoints.

`RRDBNet` is the generator of Wang et al. 2018 (arXiv:1809.00219), `SRVGGNetCompact` the small one that came with Wang
et al. 2021 (arXiv:2107.10833). Both map images [N, channels, H, W] in [0, 1] to [N, channels, scale·H, scale·W], about
in [0, 1] (to be clipped), and say of themselves:

scale, channels: as above. multiple: H and W have to be multiples of it. range: (0, 1). reach: an output pixel depends
on input pixels at most so many away from the one it lies in, counted along rows and columns; the bound is attained.

`load` opens a file of weights and makes the network that fits them.
"""

from fastgan.models.esrgan.files import load
from fastgan.models.esrgan.rrdb import RRDBNet
from fastgan.models.esrgan.srvgg import SRVGGNetCompact
from fastgan.models.esrgan.state import from_state

__all__ = ["RRDBNet", "SRVGGNetCompact", "from_state", "load"]
