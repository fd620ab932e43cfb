"""How many bits integers take under a distribution that is learned with them (Ballé et al. 2018, arXiv:1802.01436)."""

from __future__ import annotations

from itertools import pairwise
from math import expm1, log, prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: The least probability and deviation: an impossible value would take infinitely many bits.
LEAST, LEAST_DEVIATION = 1e-9, 0.11


def gaussian_bits(values: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """−log2 P of each value, under a Gaussian over bins of width 1; all float of one shape."""
    deviation = deviation.clamp(min=LEAST_DEVIATION)
    # By the tails on the left: differences of numbers near 1 would be lost.
    away = (values - mean).abs()
    scaled = 2**-0.5 / deviation
    probability = 0.5 * (torch.erfc((away - 0.5) * scaled) - torch.erfc((away + 0.5) * scaled))
    return -probability.clamp(min=LEAST).log2()


class FactorizedPrior(nn.Module):
    """A distribution of its own for each channel, whose cumulative function is a monotonic network (appendix 6.1).

    filters: units of its layers; start: how far from 0 values are at first.
    """

    def __init__(self, channels: int, filters: tuple[int, ...] = (3, 3, 3), start: float = 10.0):
        super().__init__()
        sizes = (1, *filters, 1)
        scale = start ** (1 / (len(filters) + 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(sizes):
            value = log(expm1(1 / scale / after))
            self.matrices.append(torch.full((channels, after, before), value))
            self.biases.append(torch.empty(channels, after, 1).uniform_(-0.5, 0.5))
            if after != 1 or len(self.factors) < len(filters):
                self.factors.append(torch.zeros(channels, after, 1))

    def cumulative_logits(self, x: Tensor) -> Tensor:
        """Logits of P(value < x) for x [C, 1, M]."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = F.softplus(matrix) @ x + bias
            if i < len(self.factors):
                x = x + self.factors[i].tanh() * x.tanh()
        return x

    def bits(self, values: Tensor) -> Tensor:
        """−log2 P of each value, [N, C, h, w], over bins of width 1."""
        flat = values.transpose(0, 1).flatten(1)[:, None]
        low, high = self.cumulative_logits(flat - 0.5), self.cumulative_logits(flat + 0.5)
        sign = -(low + high).sign().detach()
        probability = ((sign * high).sigmoid() - (sign * low).sigmoid()).abs()
        found = -probability.clamp(min=LEAST).log2()
        return found.view(values.shape[1], len(values), *values.shape[2:]).transpose(0, 1)


def rounded(values: Tensor) -> Tensor:
    """Whole numbers, with the gradient of what was rounded."""
    return values + (values.round() - values).detach()


def split(noise: Tensor, *shapes: torch.Size) -> list[Tensor]:
    """Noise [N, numbers] as tensors of these shapes [N, ...]."""
    parts = noise.split([prod(shape[1:]) for shape in shapes], 1)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
