"""One step of each player. The algorithm reads top to bottom; the loop around it is in loop.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastgan.objectives import Game, gradient_penalty, r1
from fastgan.train.config import Config


@dataclass
class Players:
    """What a step needs: both networks, their optimisers, and the source of latents."""

    generator: nn.Module
    discriminator: nn.Module
    g_optimizer: torch.optim.Optimizer
    d_optimizer: torch.optim.Optimizer
    latent_shape: tuple[int, ...]
    random: torch.Generator

    def latents(self, n: int) -> Tensor:
        """z [n, *latent_shape] from N(0, 1) on the networks' device."""
        return torch.randn(n, *self.latent_shape, device=self.random.device, generator=self.random)


def d_step(players: Players, game: Game, config: Config, real: Tensor, step: int) -> dict[str, Tensor]:
    """Improve the critic on one batch real [N, C, H, W]. Returns what to log, as scalars on the device."""
    critic = players.discriminator
    with torch.no_grad():
        fake = players.generator(players.latents(len(real)))
    if fake.shape != real.shape:
        raise ValueError(f"generator: expected images like the real ones {list(real.shape)}, got {list(fake.shape)}")
    real_logits, fake_logits = critic(real), critic(fake)
    loss = game.d_loss(real_logits, fake_logits)
    log = {
        "loss/discriminator": loss,
        "logit/real": real_logits.mean(),
        "logit/fake": fake_logits.mean(),
        "range/real_min": real.amin(),
        "range/real_max": real.amax(),
        "range/fake_min": fake.amin(),
        "range/fake_max": fake.amax(),
    }
    if game.gp:
        log["penalty/gradient_penalty"] = gradient_penalty(
            critic, real, fake, weight=config.gp_weight, generator=players.random
        )
        loss = loss + log["penalty/gradient_penalty"]
    if config.r1_weight > 0 and step % config.r1_interval == 0:
        # Rarer but heavier: the expected gradient stays the same (StyleGAN2's lazy regularisation).
        log["penalty/r1"] = r1(critic, real, weight=config.r1_weight * config.r1_interval)
        loss = loss + log["penalty/r1"]
    _improve(players.d_optimizer, loss)
    return {name: value.detach() for name, value in log.items()}


def g_step(players: Players, game: Game, batch: int) -> dict[str, Tensor]:
    """Improve the generator on `batch` fresh latents. The critic's weights take no gradient."""
    fake = players.generator(players.latents(batch))
    loss = game.g_loss(players.discriminator(fake))
    _improve(players.g_optimizer, loss)
    return {"loss/generator": loss.detach()}


def _improve(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    # autograd.grad asks for this player's weights alone: backward() would also fill the other's.
    weights = [w for group in optimizer.param_groups for w in group["params"] if w.requires_grad]
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
        weight.grad = gradient
    optimizer.step()
