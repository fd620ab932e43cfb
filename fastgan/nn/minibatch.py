"""Minibatch discrimination: features that measure how similar a sample is to the others of its batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError


class MinibatchDiscrimination(nn.Module):
    """[N, A] → [N, A + B]: Salimans et al. 2016 (arXiv:1606.03498, section 3.2).

    Each sample's features f become B rows of C numbers, M = f T; o_b(i) = Σ over the others j of
    exp(−‖M_i,b − M_j,b‖₁), computed in float32 at least, is appended to them. in_features, out_features, kernel: A, B,
    C. Parameter: `weight` [A, B · C], from N(0, 1/A). It couples the samples of a batch, so the gradient of one
    sample's output, which gradient penalties use, is not defined for the sample alone. Raises UsageError for features
    that are not [N, A].
    """

    def __init__(self, in_features: int, out_features: int, kernel: int = 5):
        super().__init__()
        self.in_features, self.out_features, self.kernel = in_features, out_features, kernel
        self.weight = nn.Parameter(torch.randn(in_features, out_features * kernel) * in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise UsageError(f"x: expected features [N, {self.in_features}], got {list(x.shape)}")
        rows = (x @ self.weight).unflatten(1, (self.out_features, self.kernel))
        rows = rows if rows.dtype == torch.float64 else rows.float()
        distances = (rows[:, None] - rows[None]).abs().sum(3)  # [N, N, B]
        closeness = torch.exp(-distances).sum(1) - 1  # minus exp(0), of the sample itself
        return torch.cat([x, closeness.to(x.dtype)], 1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, kernel={self.kernel}"
