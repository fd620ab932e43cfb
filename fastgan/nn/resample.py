"""Downsampling and upsampling by 2 with the binomial filter (1, 3, 3, 1) and zero padding.

The filter of Karras et al. 2020 (arXiv:1912.04958) and of R3GAN (arXiv:2501.05441): it
prevents aliasing and checkerboard artifacts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.ops import conv2d, conv_transpose2d


class _Resample(nn.Module):
    kernel: Tensor

    def __init__(self, total: float):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = taps[:, None] * taps
        self.register_buffer("kernel", (total * kernel / kernel.sum())[None, None], persistent=False)

    def weight(self, x: Tensor) -> Tensor:
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)


class Downsample(_Resample):
    """x [N, C, H, W] → [N, C, H/2, W/2], for even H and W."""

    def __init__(self) -> None:
        super().__init__(total=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight(x), stride=2, padding=1, groups=x.shape[1])


class Upsample(_Resample):
    """x [N, C, H, W] → [N, C, 2·H, 2·W]."""

    def __init__(self) -> None:
        super().__init__(total=4.0)  # compensates for the inserted zeros, three of four pixels

    def forward(self, x: Tensor) -> Tensor:
        return conv_transpose2d(x, self.weight(x), stride=2, padding=1, groups=x.shape[1])
