"""Adversarial losses: what discriminator and generator minimize, as functions of logits of any shape.

Each function returns a scalar. Those with `smoothing` have a target value for real images, which is moved by that much
toward the fake one: one-sided label smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4). A new adversarial
loss is one `AdversarialLoss`, in `ADVERSARIAL` or given to the Trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
    """E log(1 − σ(D(G(z)))): the generator's part of the minimax loss, Goodfellow et al. 2014, equation 1.

    Its gradient vanishes where the discriminator rejects its samples confidently.
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
    """E D(G(z)) − E D(x): Arjovsky et al. 2017 (arXiv:1701.07875). Clipping or a penalty keeps D Lipschitz."""
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


def relativistic_average_d(real: Tensor, fake: Tensor) -> Tensor:
    """½ [−E log σ(D(x) − E D(G(z))) − E log(1 − σ(D(G(z)) − E D(x)))]: RaGAN (arXiv:1807.00734, section 4.2).

    The means are over all logits of the batch, of every patch and position too. The factor ½ is that of ESRGAN's code
    (Wang et al. 2018, arXiv:1809.00219, equations 1 and 2, are without it), for which its weights are chosen.
    """
    return (softplus(fake.mean() - real).mean() + softplus(fake - real.mean()).mean()) / 2


def relativistic_average_g(fake: Tensor, real: Tensor) -> Tensor:
    """The generator's part of `relativistic_average_d`, in which real and fake have changed places."""
    return relativistic_average_d(fake, real)


@dataclass(frozen=True)
class Defaults:
    """Optimizer settings that are usual for an adversarial loss; `fastgan.Config` takes them where nothing is set.

    The defaults here are Radford et al. 2016 (arXiv:1511.06434).
    """

    optimizer: str = "adam"
    lr_g: float = 2e-4
    lr_d: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    d_steps: int = 1
    weight_clip: float = 0.0


@dataclass(frozen=True)
class AdversarialLoss:
    """d_loss(real logits, fake logits) and g_loss(fake logits) return scalars.

    penalties: those that belong to the loss by definition, by their name in `PENALTIES`, with their weights; any other
    penalty can be added to any loss. defaults: of the optimizers. paired: g_loss is g_loss(fake logits, real logits),
    of as many images each. labels: d_loss takes `smoothing`. undecided: the logit of a discriminator that
    cannot tell real from fake, or None where only differences of logits have a meaning. unbounded: the losses have no
    lower bound, so that a large value does not show divergence. logits: d_loss wants numbers of any size, so that the
    Trainer refuses a discriminator that ends in a sigmoid.
    """

    name: str
    d_loss: Callable[..., Tensor]
    g_loss: Callable[..., Tensor]
    penalties: Mapping[str, float] = field(default_factory=dict)
    defaults: Defaults = Defaults()
    paired: bool = False
    labels: bool = False
    undecided: float | None = None
    unbounded: bool = False
    logits: bool = False


#: Every adversarial loss by name.
ADVERSARIAL: dict[str, AdversarialLoss] = {
    loss.name: loss
    for loss in (
        AdversarialLoss("non-saturating", non_saturating_d, non_saturating_g, labels=True, undecided=0.0, logits=True),
        AdversarialLoss("minimax", non_saturating_d, saturating_g, labels=True, undecided=0.0, logits=True),
        # A sigmoid reaches the targets 0 and 1 of least squares, so that it is accepted there.
        AdversarialLoss("least-squares", least_squares_d, least_squares_g, labels=True, undecided=0.5),
        AdversarialLoss("hinge", hinge_d, wasserstein_g, undecided=0.0, logits=True),
        AdversarialLoss(
            "wgan",
            wasserstein_d,
            wasserstein_g,
            # Arjovsky et al. 2017, algorithm 1: momentum made the discriminator's training unstable.
            defaults=Defaults(optimizer="rmsprop", lr_g=5e-5, lr_d=5e-5, d_steps=5, weight_clip=0.01),
            unbounded=True,
            logits=True,
        ),
        AdversarialLoss(
            "wgan-gp",
            wasserstein_d,
            wasserstein_g,
            penalties={"gradient_penalty": 10.0},
            # Gulrajani et al. 2017, algorithm 1.
            defaults=Defaults(lr_g=1e-4, lr_d=1e-4, beta1=0.0, beta2=0.9, d_steps=5),
            unbounded=True,
            logits=True,
        ),
        # Huang et al. 2024 (arXiv:2501.05441) stabilize it with R1 and R2: --r1-weight, --r2-weight.
        AdversarialLoss(
            "relativistic",
            relativistic_d,
            relativistic_g,
            defaults=Defaults(beta1=0.0, beta2=0.99),
            paired=True,
            logits=True,
        ),
        AdversarialLoss(
            "relativistic-average",
            relativistic_average_d,
            relativistic_average_g,
            # ESRGAN, section 4.1.
            defaults=Defaults(lr_g=1e-4, lr_d=1e-4, beta1=0.9),
            paired=True,
            logits=True,
        ),
    )
}
