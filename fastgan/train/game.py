"""One step of each player, as functions of tensors: the algorithm reads top to bottom.

Nothing here draws noise or changes a weight, so that a step can be compiled whole. The loop around it is in loop.py,
what becomes of the gradients in update.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastgan.objectives import Game, gradient_penalty, r1
from fastgan.train.config import Config
from fastgan.train.monitor import statistics

Log = dict[str, Tensor]
Gradients = tuple[Tensor | None, ...]


@dataclass(eq=False)
class Players:
    """Both networks, the game between them, and how a step is computed.

    together: real and fake images go through the critic as one batch, which is the same where no layer of it ties the
    samples of a batch together (together.py finds out) and faster.
    """

    generator: nn.Module
    discriminator: nn.Module
    game: Game
    config: Config
    together: bool = False

    def d_step(
        self, real: Tensor, z: Tensor, epsilon: Tensor | None, scale: Tensor | None = None, *, lazy: bool = False
    ) -> tuple[Log, Gradients]:
        """What the critic learns from real [N, C, H, W] against G(z): what to log, and its weights' gradients.

        epsilon [N, 1, 1, 1]: where between real and fake the gradient penalty looks, in games that have one. scale: of
        the loss in fp16; the gradients carry it. lazy: whether this step has the regularisers of every so many steps.
        """
        config = self.config
        with self.autocast(real):
            with torch.no_grad():
                fake = self.generator(z)
            if fake.shape != real.shape:
                came, wanted = list(fake.shape), list(real.shape)
                raise ValueError(f"generator: expected images like the real ones {wanted}, got {came}")
            real_logits, fake_logits = self._logits(real, fake)
            loss = self.game.d_loss(real_logits.float(), fake_logits.float())
            log = {
                "loss/discriminator": loss,
                "logit/real": real_logits.mean(),
                "logit/fake": fake_logits.mean(),
                "range/real_min": real.amin(),
                "range/real_max": real.amax(),
                "range/fake_min": fake.amin(),
                "range/fake_max": fake.amax(),
                **statistics(real, fake, real_logits, fake_logits),
            }
            inner = 1.0 if scale is None else scale
            if self.game.gp:
                log["penalty/gradient_penalty"] = penalty = gradient_penalty(
                    self.discriminator, real, fake, weight=config.gp_weight, epsilon=epsilon, scale=inner
                )
                loss = loss + penalty
            if lazy:
                # Rarer but heavier: the expected gradient stays the same (StyleGAN2's lazy regularisation).
                log["penalty/r1"] = penalty = r1(
                    self.discriminator, real, weight=config.r1_weight * config.r1_interval, scale=inner
                )
                loss = loss + penalty
        return _detached(log), _gradients(loss, self.discriminator, scale)

    def g_step(self, z: Tensor, scale: Tensor | None = None) -> tuple[Log, Gradients]:
        """What the generator learns from the critic's view of G(z). The critic's weights take no gradient."""
        with self.autocast(z):
            loss = self.game.g_loss(self.discriminator(self.generator(z)).float())
        return {"loss/generator": loss.detach()}, _gradients(loss, self.generator, scale)

    def _logits(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        if not self.together:
            return self.discriminator(real), self.discriminator(fake)
        first, second = self.discriminator(torch.cat([real, fake.to(real.dtype)])).chunk(2)
        return first, second

    def autocast(self, like: Tensor) -> torch.autocast:
        """How the forward passes on tensors like this compute."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision)
        return torch.autocast(like.device.type, dtype, enabled=dtype is not None)


def learned(network: nn.Module) -> list[nn.Parameter]:
    """The weights that training moves."""
    return [weight for weight in network.parameters() if weight.requires_grad]


def _gradients(loss: Tensor, network: nn.Module, scale: Tensor | None) -> Gradients:
    # autograd.grad asks for this player's weights alone: backward() would also fill the other's.
    return torch.autograd.grad(loss if scale is None else loss * scale, learned(network), allow_unused=True)


def _detached(log: Log) -> Log:
    return {name: value.detach() for name, value in log.items()}
