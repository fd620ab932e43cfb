"""Options of the losses: which adversarial loss, and the weights of what is added to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from fastgan._util.checks import AT_LEAST_ONE, NOT_NEGATIVE, expect, unknown
from fastgan.errors import UsageError
from fastgan.losses.adversarial import ADVERSARIAL, AdversarialLoss

#: The field that holds a penalty's weight, and the penalty's name in `fastgan.losses.PENALTIES`.
WEIGHTS = {
    "gp_weight": "gradient_penalty", "zero_centered_gp_weight": "zero_centered_gp", "dragan_weight": "dragan",
    "r1_weight": "r1", "r2_weight": "r2",
}  # fmt: skip


@dataclass(frozen=True)
class LossConfig:
    """What discriminator and generator minimize."""

    adversarial: Annotated[str, tyro.conf.arg(name="loss", help=f"adversarial loss: {', '.join(ADVERSARIAL)}")] = (
        "non-saturating"
    )
    gp_weight: float | None = None
    """weight of the gradient penalty between real and fake images; the loss's own when left out (10 in wgan-gp)"""
    zero_centered_gp_weight: float = 0.0
    """weight of the zero-centered gradient penalty between real and fake images; 0 leaves it out"""
    dragan_weight: float = 0.0
    """weight of the gradient penalty around real images (DRAGAN); 0 leaves it out"""
    r1_weight: float = 0.0
    """weight (gamma) of the R1 penalty on real images; 0 leaves it out"""
    r2_weight: float = 0.0
    """weight (gamma) of the R2 penalty on generated images; 0 leaves it out"""
    penalty_interval: int = 1
    """lazy regularization: compute added penalties every so many steps, with weights multiplied accordingly"""
    auxiliary_weight: float = 1.0
    """weight of the classification loss, in networks with an auxiliary classifier (AC-GAN)"""
    feature_matching: float = 0.0
    """weight of the distance between mean discriminator features of real and fake images, in the generator's loss"""
    l1_weight: float = 0.0
    """weight of E |target − G(source)| in the generator's loss, for paired images (100 in pix2pix)"""
    matching_interval: int = 1
    """add feature matching and L1 every so many generator steps, with weights multiplied accordingly"""

    def __post_init__(self) -> None:
        expect(self, ("penalty_interval", "matching_interval"), AT_LEAST_ONE)
        expect(self, (*WEIGHTS, "auxiliary_weight", "feature_matching", "l1_weight"), NOT_NEGATIVE)
        if self.adversarial not in ADVERSARIAL:
            raise UsageError(unknown("loss", self.adversarial, list(ADVERSARIAL)))

    def all_penalties(self, loss: AdversarialLoss) -> dict[str, float]:
        """The weight of each penalty, by its name in `fastgan.losses.PENALTIES`: the loss's own and the added ones."""
        asked = {name: getattr(self, field) for field, name in WEIGHTS.items()}
        found = {**loss.penalties, **{name: weight for name, weight in asked.items() if weight}}
        if self.gp_weight == 0:  # left out on purpose; the other weights are 0 where nothing was said
            found.pop("gradient_penalty", None)
        return found

    def penalties(self, loss: AdversarialLoss, lazy: bool) -> dict[str, float]:
        """Those of one step. lazy: whether it is a step with the added ones."""
        # Rarer but heavier: the expected gradient stays the same (Karras et al. 2020, arXiv:1912.04958, section 3.1).
        return {
            name: weight if name in loss.penalties else weight * self.penalty_interval
            for name, weight in self.all_penalties(loss).items()
            if lazy or name in loss.penalties
        }

    def matching(self, lazy: bool) -> tuple[float, float]:
        """Weights of feature matching and L1 in one generator step; 0 where the step is not a lazy one."""
        times = self.matching_interval if lazy or self.matching_interval == 1 else 0
        return times * self.feature_matching, times * self.l1_weight
