"""Maxout: the maximum of several linear functions as an activation (Goodfellow et al. 2013, arXiv:1302.4389)."""

from __future__ import annotations

from torch import Tensor, nn


class Maxout(nn.Module):
    """x [N, in_features] → [N, units], each the largest of `pieces` linear functions. State dict: `linear.*`."""

    def __init__(self, in_features: int, units: int, pieces: int):
        super().__init__()
        self.linear = nn.Linear(in_features, units * pieces)
        self.units = units

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (self.units, -1)).amax(2)
