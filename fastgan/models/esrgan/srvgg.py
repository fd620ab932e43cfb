"""SRVGGNetCompact: convolutions at the input's size alone, one pixel shuffle (Real-ESRGAN, arXiv:2107.10833)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.esrgan.bicubic import Bicubic


class SRVGGNetCompact(nn.Module):
    """Images [N, channels, H, W] → [N, channels, scale·H, scale·W] in float32, [0, 1] (clip: it may leave the range).

    Convolutions with PReLU, then one convolution whose channels become `shuffle`×`shuffle` pixels, added to the input
    enlarged by repetition. blocks: convolutions between the first and the last, 16 or 32 in the public files.

    shuffle: `scale` when left out. Where it is larger, a bicubic reduction to `scale` follows: ncnn's files
    realesr-animevideov3-x2 and -x3 are the network for ×4 with such a layer behind it (there is one set of weights; the
    PyTorch release is ×4 too), and compute here what they compute in ncnn. The reduction is no weight: a state dict of
    such a network is one of the ×4 network, and is loaded as that. Raises UsageError.
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
        self.scale, self.channels, self.shuffle = scale, channels, shuffle
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(blocks):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, channels * shuffle**2, 3, padding=1))
        self.reduce = Bicubic(channels, shuffle, scale) if shuffle > scale else None
        # One pixel for each convolution, and one where the reduction reaches into the squares of the pixels beside.
        self.reach = blocks + 2 + (self.reduce is not None and self.reduce.overlaps)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.body(x), self.shuffle)
        y = y + F.interpolate(x, scale_factor=float(self.shuffle), mode="nearest")
        return y if self.reduce is None else self.reduce(y)
