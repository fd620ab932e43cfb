"""Conditional batch norm: gain and bias are linear functions of a condition of each sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.nn.spectral_group import spectral_norm


class ConditionalBatchNorm(nn.Module):
    """x [N, C] or [N, C, H, W], c [N, features] → (1 + W c) · normalize(x) + V c, without further parameters.

    With c one-hot vectors of labels, W and V are one gain and one bias for each class (Dumoulin et al. 2017,
    arXiv:1610.07629). With an embedding of the label concatenated to a part of z, it is BigGAN's (Brock et al. 2019,
    arXiv:1809.11096). Initially it equals a batch norm without condition, except with spectral=True, which puts
    spectral norms on W and V. State dict: `norm.running_mean`, `norm.running_var`, `gain.weight` [C, features],
    `bias.weight`.
    """

    def __init__(self, channels: int, features: int, *, spectral: bool = False):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Linear(features, channels, bias=False)
        self.bias = nn.Linear(features, channels, bias=False)
        for layer in (self.gain, self.bias):
            if spectral:
                spectral_norm(layer)  # power iteration cannot start from zeros
            else:
                nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y = self.norm(x) if x.dim() == 4 else self.norm(x[:, :, None, None]).flatten(1)
        shape = (-1, x.shape[1]) + (1,) * (x.dim() - 2)
        gain, bias = (layer(c).to(y.dtype).view(shape) for layer in (self.gain, self.bias))
        return torch.addcmul(bias, y, 1 + gain)
