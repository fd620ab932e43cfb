"""A game as data: what each player minimises, and how its optimisers are usually set. A new one is a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fastgan.objectives import losses


@dataclass(frozen=True)
class Defaults:
    """How a game is usually optimised: what `fastgan.Config` takes where the user has set nothing.

    Those here are Radford et al. 2016 (arXiv:1511.06434), which most have followed.
    """

    optimizer: str = "adam"
    lr_g: float = 2e-4
    lr_d: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    d_steps: int = 1
    weight_clip: float = 0.0


@dataclass(frozen=True)
class Game:
    """d_loss(real logits, fake logits) and g_loss(fake logits) give scalars.

    penalties: those that the critic's loss carries by definition, by their name in `PENALTIES`, with their weights; any
    other can be added to any game. defaults: of the optimisers. paired: g_loss is g_loss(fake logits, real logits), and
    the i-th of each make a pair. labels: d_loss takes `smoothing=`, as it asks for one value at real images. undecided:
    the logit of a critic that cannot tell, or None where only differences of logits have a meaning.
    """

    name: str
    d_loss: Callable[..., Tensor]
    g_loss: Callable[..., Tensor]
    penalties: Mapping[str, float] = field(default_factory=dict)
    defaults: Defaults = Defaults()
    paired: bool = False
    labels: bool = False
    undecided: float | None = None


GAMES: dict[str, Game] = {
    game.name: game
    for game in (
        Game("non-saturating", losses.non_saturating_d, losses.non_saturating_g, labels=True, undecided=0.0),
        Game("minimax", losses.non_saturating_d, losses.saturating_g, labels=True, undecided=0.0),
        Game("least-squares", losses.least_squares_d, losses.least_squares_g, labels=True, undecided=0.5),
        Game("hinge", losses.hinge_d, losses.wasserstein_g, undecided=0.0),
        Game(
            "wgan",
            losses.wasserstein_d,
            losses.wasserstein_g,
            # Arjovsky et al. 2017, algorithm 1: momentum made the critic's training unstable.
            defaults=Defaults(optimizer="rmsprop", lr_g=5e-5, lr_d=5e-5, d_steps=5, weight_clip=0.01),
        ),
        Game(
            "wgan-gp",
            losses.wasserstein_d,
            losses.wasserstein_g,
            penalties={"gradient_penalty": 10.0},
            # Gulrajani et al. 2017, algorithm 1.
            defaults=Defaults(lr_g=1e-4, lr_d=1e-4, beta1=0.0, beta2=0.9, d_steps=5),
        ),
        # Huang et al. 2024 (arXiv:2501.05441) let it converge by R1 and R2: --r1-weight, --r2-weight.
        Game(
            "relativistic",
            losses.relativistic_d,
            losses.relativistic_g,
            defaults=Defaults(beta1=0.0, beta2=0.99),
            paired=True,
        ),
    )
}
