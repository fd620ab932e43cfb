"""The standard deviation within a batch as a feature, by which a discriminator detects a lack of diversity.

Karras et al. 2018 (arXiv:1710.10196, section 3), in groups as their code does it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError


class MinibatchStdDev(nn.Module):
    """x [N, C, H, W] → [N, C + 1, H, W]: the last map holds the standard deviation over groups of `group` samples,
    averaged over features and pixels. A batch smaller than a group is one group. Raises UsageError for a batch that is
    not divisible by the group.
    """

    def __init__(self, group: int = 4):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        group = min(self.group, n)
        if n % group:
            raise UsageError(f"x: expected a batch that the groups of {group} samples divide, got {n} samples")
        wide = x if x.dtype == torch.float64 else x.float()
        y = wide.unflatten(0, (group, -1))  # the samples of a group are n / group apart
        std = ((y - y.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))  # [n / group]
        feature = std.to(x.dtype).repeat(group)[:, None, None, None].expand(n, 1, height, width)
        return torch.cat([x, feature], 1)

    def extra_repr(self) -> str:
        return f"group={self.group}"
