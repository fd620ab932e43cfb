"""Losses of both players, as functions of logits of any shape; each returns a scalar."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu, softplus


def non_saturating_d(real: Tensor, fake: Tensor) -> Tensor:
    """−E log σ(D(x)) − E log(1 − σ(D(G(z)))): Goodfellow et al. 2014, equation 1."""
    return softplus(-real).mean() + softplus(fake).mean()


def non_saturating_g(fake: Tensor) -> Tensor:
    """−E log σ(D(G(z))): the generator's loss that does not saturate, Goodfellow et al. 2014, section 3."""
    return softplus(-fake).mean()


def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    """E D(G(z)) − E D(x): Arjovsky et al. 2017 (arXiv:1701.07875); the critic must be kept Lipschitz by other means."""
    return fake.mean() - real.mean()


def wasserstein_g(fake: Tensor) -> Tensor:
    """−E D(G(z))."""
    return -fake.mean()


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))): Lim and Ye 2017 (arXiv:1705.02894), as in SNGAN and BigGAN."""
    return relu(1 - real).mean() + relu(1 + fake).mean()
