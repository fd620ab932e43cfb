"""Self-attention over pixels (Zhang et al. 2019, arXiv:1805.08318)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.nn.spectral_group import spectral_norm
from fastgan.ops import conv2d


class SelfAttention(nn.Module):
    """x [N, C, H, W] → x + gamma · o(attention of theta(x) to phi(x) over g(x)), the same shape.

    As in BigGAN: an eighth of the channels for queries and keys, half of them for values, keys and values at half the
    side. gamma is initially 0, so that the block starts as the identity. Memory is proportional to H²W²/4.
    """

    def __init__(self, channels: int, *, spectral: bool = False):
        super().__init__()
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.theta = nn.Conv2d(channels, narrow, 1, bias=False)
        self.phi = nn.Conv2d(channels, narrow, 1, bias=False)
        self.g = nn.Conv2d(channels, half, 1, bias=False)
        self.o = nn.Conv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))
        if spectral:
            for layer in (self.theta, self.phi, self.g, self.o):
                spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        query = conv2d(x, self.theta.weight).flatten(2)
        key = F.max_pool2d(conv2d(x, self.phi.weight), 2).flatten(2)
        value = F.max_pool2d(conv2d(x, self.g.weight), 2).flatten(2)
        attention = torch.softmax(query.transpose(1, 2) @ key, dim=-1)  # [N, HW, HW/4]
        attended = (value @ attention.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * conv2d(attended, self.o.weight)
