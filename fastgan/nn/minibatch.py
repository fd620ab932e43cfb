"""Minibatch discrimination: features of an image that tell how like the others of its batch it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError


class MinibatchDiscrimination(nn.Module):
    """[N, A] → [N, A + B]: Salimans et al. 2016 (arXiv:1606.03498, section 3.2).

    Each sample's features f become B rows of C numbers, M = f T; o_b(i) = Σ over the others j of
    exp(−‖M_i,b − M_j,b‖₁) is put behind them, in float32 at least. in_features, out_features, kernel: A, B, C.
    Parameter: `weight` [A, B · C], from N(0, 1/A). It ties the samples of a batch together, so a penalty on each
    sample's gradient has no meaning behind it. Raises UsageError for features that are not [N, A].
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
        apart = (rows[:, None] - rows[None]).abs().sum(3)  # [N, N, B]
        closeness = torch.exp(-apart).sum(1) - 1  # exp(0) is its own
        return torch.cat([x, closeness.to(x.dtype)], 1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, kernel={self.kernel}"
