"""Bicubic reduction by a ratio of small whole numbers, as one convolution."""

from __future__ import annotations

from math import floor, gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: The free parameter of Keys's kernel, as in torch, ncnn, ONNX and OpenCV.
A = -0.75


class Bicubic(nn.Module):
    """[N, channels, H, W] → [N, channels, H·to/of, W·to/of], to < of; H and W are multiples of `of` without its common
    divisors with `to`.

    The numbers are those of F.interpolate(mode="bicubic"), pixels lying in the middle of their squares, without
    smoothing first. It is a convolution because the pattern of taps repeats, and ONNX Runtime's own bicubic resize took
    ten times as long as this one (720p to 360p, one core of a CPU).
    """

    kernel: Tensor

    def __init__(self, channels: int, of: int, to: int):
        super().__init__()
        common = gcd(of, to)
        self.channels, self.stride, self.phases = channels, of // common, to // common
        rows = torch.tensor(_taps(self.stride, self.phases), dtype=torch.float64, device="cpu")
        #: Whether what becomes of `stride` pixels depends on the pixels beside them.
        self.overlaps = bool(rows[:, [0, -1]].any())
        kernel = torch.einsum("iy,jx->ijyx", rows, rows).flatten(0, 1)[:, None]
        # No weight of the network: not in the state dict. On the CPU also where the weights are yet to be filled in.
        self.register_buffer("kernel", kernel.float().repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Not F.pad: its replication of symbolic sizes behind a pixel shuffle is what Inductor fails at (2.11 to 2.13).
        x = torch.cat((x[:, :, :1], x, x[:, :, -1:]), 2)
        x = torch.cat((x[..., :1], x, x[..., -1:]), 3)
        x = F.conv2d(x, self.kernel, stride=self.stride, groups=self.channels)
        return F.pixel_shuffle(x, self.phases) if self.phases > 1 else x


def _taps(stride: int, phases: int) -> list[list[float]]:
    """Of each of `phases` output pixels, the weights of input pixels -1 to stride."""
    table = []
    for phase in range(phases):
        center = (phase + 0.5) * stride / phases - 0.5
        first = floor(center) - 1
        row = [0.0] * (stride + 2)
        for tap in range(4):
            row[first + tap + 1] = _keys(abs(center - first - tap))
        table.append(row)
    return table


def _keys(x: float) -> float:
    """The cubic kernel of Keys 1981 at a distance of 0 ≤ x ≤ 2 pixels."""
    if x <= 1:
        return ((A + 2) * x - (A + 3)) * x * x + 1
    return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
