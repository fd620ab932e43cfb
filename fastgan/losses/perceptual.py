"""Distances between images in the features of a network."""

from __future__ import annotations

from torch import Tensor


def feature_matching(fake: Tensor, real: Tensor) -> Tensor:
    """‖E f(x) − E f(G(z))‖²: Salimans et al. 2016 (arXiv:1606.03498), section 3.1.

    fake, real: features of a layer of the discriminator, [N, ...] and [M, ...]; real is taken as constant.
    """
    return (fake.flatten(1).mean(0) - real.detach().flatten(1).mean(0)).square().sum()
