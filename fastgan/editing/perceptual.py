"""A perceptual distance on the activations of EfficientNet-lite0, whose weights are a package.

As LPIPS (Zhang et al. 2018, arXiv:1801.03924) without its learned weights: activations at several depths, normalized to
length 1 at each pixel, squared difference, mean over pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.metrics.extractors import efficientnet
from fastgan.metrics.features import Extractor

#: Images are brought to between these sides: smaller ones have no deep activations, larger ones cost time.
_LEAST, _MOST = 64, 256


class PerceptualDistance:
    """distance(images, targets), both [N, 1 or 3, H, W] in [-1, 1] → a scalar, differentiable twice in images."""

    def __init__(self, extractor: Extractor, weight: float = 1.0):
        self.network = extractor.network.requires_grad_(False).eval()
        self.shift, self.scale, self.weight = extractor.shift, extractor.scale, weight

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        total = images.new_zeros(())
        for one, other in zip(self._activations(images), self._activations(targets.detach()), strict=True):
            total = total + (_unit(one) - _unit(other)).square().sum(1).mean()
        return self.weight * total

    def _activations(self, images: Tensor) -> list[Tensor]:
        x = images.expand(-1, 3, -1, -1)
        side = min(x.shape[2:])
        if side > _MOST:
            x = F.interpolate(x, scale_factor=_MOST / side, mode="area")
        elif side < _LEAST:
            x = F.interpolate(x, scale_factor=_LEAST / side, mode="bilinear", align_corners=False)
        return self.network.activations(((x + 1) * 127.5 - self.shift) / self.scale)


def fetched(device: torch.device, weight: float = 1.0) -> PerceptualDistance:
    """With the weights of the package, downloaded if they are not in the cache. Raises DataError."""
    return PerceptualDistance(efficientnet.fetched(device), weight)


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-10)
