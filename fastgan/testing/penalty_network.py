"""A small discriminator of two ops and its gradient penalty, for tests of second-order gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.testing.case import Inputs, OpCase


def discriminator_weights(case: OpCase, y: Tensor, x: Tensor, convolve: bool = True) -> list[Tensor]:
    """The weights of both mixing layers, in x's dtype: 3×3 convolutions if the op keeps the shape of an image."""
    generator = torch.Generator().manual_seed(2)

    def draw(*size: int) -> Tensor:
        w = torch.randn(size, generator=generator, dtype=torch.float64) / size[1] ** 0.5
        return w.to(x.device, x.dtype).requires_grad_()

    if convolve and x.dim() == 4 and y.shape == x.shape:
        return [draw(x.shape[1], x.shape[1], 3, 3) for _ in range(2)]
    features = x[0].numel()
    return [draw(features, features), draw(features, y[0].numel())]


def discriminator(
    function: Callable[..., Tensor], x: Tensor, parameters: list[Inputs], weights: list[Tensor]
) -> Tensor:
    """mixing layer → op → mixing layer → op → sum for each image."""
    h = x
    for own, w in zip(parameters, weights, strict=True):
        h = F.conv2d(h, w, padding=1) if w.dim() == 4 else F.linear(h.flatten(1), w).view(x.shape)
        h = function(h, *own)
    return h.flatten(1).sum(1)


def penalty(function: Callable[..., Tensor], x: Tensor, parameters: list[Inputs], weights: list[Tensor]) -> Tensor:
    """The mean squared norm of the discriminator's gradient in x, differentiable."""
    scores = discriminator(function, x, parameters, weights)
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
