"""Normalizes the feature vector of every pixel to length √C (Karras et al. 2018, arXiv:1710.10196, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PixelNorm(nn.Module):
    """x [N, C, *] → x / √(mean over C of x² + 1e-8)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)
