"""Losses on features of the discriminator."""

from __future__ import annotations

from torch import Tensor


def feature_matching(fake: Tensor, real: Tensor) -> Tensor:
    """Feature matching, ‖E f(x) − E f(G(z))‖² (Salimans et al. 2016, arXiv:1606.03498, section 3.1): a scalar.

    fake, real: features f of a layer of the discriminator, floating point [N, ...] and [M, ...] with equal dimensions
    after the first. No gradient flows into real.
    """
    return (fake.flatten(1).mean(0) - real.detach().flatten(1).mean(0)).square().sum()
