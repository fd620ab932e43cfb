"""Losses of both players, as functions of logits of any shape; each returns a scalar.

Those with `smoothing` know labels: real images are asked to be 1 − smoothing of the way from fake to real, which is
one-sided label smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu, softplus


def non_saturating_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """−E log σ(D(x)) − E log(1 − σ(D(G(z)))): Goodfellow et al. 2014, equation 1.

    smoothing s: the first term becomes −(1 − s) E log σ(D(x)) − s E log(1 − σ(D(x))).
    """
    loss = softplus(-real).mean() + softplus(fake).mean()
    # softplus(x) − softplus(−x) = x makes a product of what smoothing adds.
    return loss + smoothing * real.mean() if smoothing else loss


def non_saturating_g(fake: Tensor) -> Tensor:
    """−E log σ(D(G(z))): the generator's loss that does not saturate, Goodfellow et al. 2014, section 3."""
    return softplus(-fake).mean()


def saturating_g(fake: Tensor) -> Tensor:
    """E log(1 − σ(D(G(z)))): the generator's part of the minimax game, Goodfellow et al. 2014, equation 1.

    Its gradient vanishes where the critic is sure of its fakes.
    """
    return -softplus(fake).mean()


def least_squares_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """½ E (D(x) − 1)² + ½ E D(G(z))²: Mao et al. 2017 (arXiv:1611.04076), equation 9 with a = 0, b = 1.

    smoothing s: real images are asked to be 1 − s.
    """
    return 0.5 * (real - (1 - smoothing)).square().mean() + 0.5 * fake.square().mean()


def least_squares_g(fake: Tensor) -> Tensor:
    """½ E (D(G(z)) − 1)²: Mao et al. 2017 (arXiv:1611.04076), equation 9 with c = 1."""
    return 0.5 * (fake - 1).square().mean()


def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    """E D(G(z)) − E D(x): Arjovsky et al. 2017 (arXiv:1701.07875); the critic must be kept Lipschitz by other means."""
    return fake.mean() - real.mean()


def wasserstein_g(fake: Tensor) -> Tensor:
    """−E D(G(z))."""
    return -fake.mean()


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))): Lim and Ye 2017 (arXiv:1705.02894), as in SNGAN and BigGAN."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """−E log σ(D(x) − D(G(z))) over pairs: RpGAN, Jolicoeur-Martineau 2018 (arXiv:1807.00734), as in R3GAN.

    real, fake: logits of one shape; the i-th of each make a pair.
    """
    return softplus(fake - real).mean()


def relativistic_g(fake: Tensor, real: Tensor) -> Tensor:
    """−E log σ(D(G(z)) − D(x)) over pairs: the generator's part of `relativistic_d`."""
    return softplus(real - fake).mean()


def feature_matching(fake: Tensor, real: Tensor) -> Tensor:
    """‖E f(x) − E f(G(z))‖²: Salimans et al. 2016 (arXiv:1606.03498), section 3.1.

    fake, real: features of a layer of the critic, [N, ...] and [M, ...]; real is taken as constant.
    """
    return (fake.flatten(1).mean(0) - real.detach().flatten(1).mean(0)).square().sum()


def l1(fake: Tensor, target: Tensor) -> Tensor:
    """E |y − G(x)| over pixels: the distance to a paired target, Isola et al. 2017 (arXiv:1611.07004), equation 3."""
    return (fake - target.detach()).abs().mean()
