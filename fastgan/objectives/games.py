"""A game as data: what each player minimises, and how its optimisers are usually set. A new one is a few lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fastgan.objectives import losses


@dataclass(frozen=True)
class Game:
    """d_loss(real logits, fake logits) and g_loss(fake logits) give scalars; gp says whether the critic's loss carries
    the gradient penalty between real and fake images by definition. R1 can be added to any game."""

    name: str
    d_loss: Callable[[Tensor, Tensor], Tensor]
    g_loss: Callable[[Tensor], Tensor]
    gp: bool = False


GAMES: dict[str, Game] = {
    game.name: game
    for game in (
        Game("non-saturating", losses.non_saturating_d, losses.non_saturating_g),
        Game("hinge", losses.hinge_d, losses.wasserstein_g),
        Game("wgan-gp", losses.wasserstein_d, losses.wasserstein_g, gp=True),
    )
}
