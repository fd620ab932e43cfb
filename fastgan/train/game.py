"""One step of each player, as functions of tensors: the algorithm reads top to bottom.

Nothing here draws noise or changes a weight, so that a step can be compiled whole. The loop around it is in loop.py,
what becomes of the gradients in update.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastgan.objectives import PENALTIES, Game
from fastgan.train.config import Config
from fastgan.train.monitor import statistics

Log = dict[str, Tensor]
Gradients = tuple[Tensor | None, ...]
#: Logits, and those of the classes where the critic has an auxiliary classifier.
Judged = tuple[Tensor, Tensor | None]


@dataclass(eq=False)
class Players:
    """Both networks, the game between them, and how a step is computed.

    A generator whose attribute `classes` is greater than 0 is called as generator(z, y), and its critic as
    critic(x, y); one with the attribute `auxiliary` set as critic(x), and gives (logits, class logits). y: labels,
    int64 [N].

    together: real and fake images go through the critic as one batch, which is the same where no layer of it ties the
    samples of a batch together (together.py finds out) and faster.
    """

    generator: nn.Module
    discriminator: nn.Module
    game: Game
    config: Config
    together: bool = False

    def d_step(
        self,
        real: Tensor,
        z: Tensor,
        epsilon: Tensor | None = None,
        scale: Tensor | None = None,
        *,
        lazy: bool = False,
        y: Tensor | None = None,
    ) -> tuple[Log, Gradients]:
        """What the critic learns from real [N, C, H, W] against G(z): what to log, and its weights' gradients.

        epsilon [N, 1, 1, 1]: where between real and fake penalties look that look there. scale: of the loss in fp16;
        the gradients carry it. lazy: whether this step has the penalties of every so many steps. y: labels of the real
        images, which the fakes take too: so the critic cannot tell them by how often a class comes.
        """
        with self.autocast(real):
            with torch.no_grad():
                fake = self.generate(z, y)
            if fake.shape != real.shape:
                came, wanted = list(fake.shape), list(real.shape)
                raise ValueError(f"generator: expected images like the real ones {wanted}, got {came}")
            (real_logits, real_classes), (fake_logits, fake_classes) = self._judge_both(real, fake, y)
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
            if y is not None and real_classes is not None and fake_classes is not None:
                # Odena et al. 2017 (arXiv:1610.09585), equation 3: both kinds of images are classified.
                log["loss/classes"] = cross_entropy(real_classes.float(), y) + cross_entropy(fake_classes.float(), y)
                loss = loss + self.config.auxiliary_weight * log["loss/classes"]
            for name, weight in self.penalties(lazy).items():
                log[f"penalty/{name}"] = penalty = PENALTIES[name](
                    self._critic, real, fake, y, weight=weight, epsilon=epsilon, scale=1.0 if scale is None else scale
                )
                loss = loss + penalty
        return _detached(log), _gradients(loss, self.discriminator, scale)

    def g_step(
        self,
        z: Tensor,
        scale: Tensor | None = None,
        *,
        y: Tensor | None = None,
        real: Tensor | None = None,
        real_y: Tensor | None = None,
    ) -> tuple[Log, Gradients]:
        """What the generator learns from the critic's view of G(z). The critic's weights take no gradient.

        y: the classes that it is to make. real: the images that a paired game sets beside the fakes, and real_y their
        labels.
        """
        with self.autocast(z):
            logits, classes = self.judge(self.generate(z, y), y)
            loss = self._g_loss(logits, real, real_y)
            log = {"loss/generator": loss}
            if y is not None and classes is not None:
                log["loss/generator_classes"] = cross_entropy(classes.float(), y)
                loss = loss + self.config.auxiliary_weight * log["loss/generator_classes"]
        return _detached(log), _gradients(loss, self.generator, scale)

    # --- what they are made of ---------------------------------------------------------------------------------------

    def generate(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Images of the generator, of the classes y where it is conditional."""
        return self.generator(z) if y is None else self.generator(z, y)

    def judge(self, images: Tensor, y: Tensor | None) -> Judged:
        """What the critic says of images."""
        return judge(self.discriminator, images, y)

    def penalties(self, lazy: bool) -> dict[str, float]:
        """Names and weights of the penalties of a step: the game's own, and on lazy ones those that were asked for."""
        config, found = self.config, self.config.penalties(self.game)
        # Rarer but heavier: the expected gradient stays the same (StyleGAN2's lazy regularisation).
        return {
            name: weight if name in self.game.penalties else weight * config.penalty_interval
            for name, weight in found.items()
            if lazy or name in self.game.penalties
        }

    @property
    def lazy(self) -> bool:
        """Whether there are penalties of every so many steps."""
        return len(self.penalties(True)) > len(self.penalties(False))

    @property
    def between(self) -> bool:
        """Whether a penalty looks between real and fake images, and d_step so wants epsilon."""
        return bool({"gradient_penalty", "zero_centered_gp"} & self.penalties(True).keys())

    def autocast(self, like: Tensor) -> torch.autocast:
        """How the forward passes on tensors like this compute."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision)
        return torch.autocast(like.device.type, dtype, enabled=dtype is not None)

    def _critic(self, images: Tensor, y: Tensor | None) -> Tensor:
        return self.judge(images, y)[0]

    def _judge_both(self, real: Tensor, fake: Tensor, y: Tensor | None) -> tuple[Judged, Judged]:
        if not self.together:
            return self.judge(real, y), self.judge(fake, y)
        both = torch.cat([real, fake.to(real.dtype)])
        logits, classes = self.judge(both, None if y is None else torch.cat([y, y]))
        first, second = logits.chunk(2)
        if classes is None:
            return (first, None), (second, None)
        of_real, of_fake = classes.chunk(2)
        return (first, of_real), (second, of_fake)

    def _g_loss(self, logits: Tensor, real: Tensor | None, real_y: Tensor | None) -> Tensor:
        if not self.game.paired:
            return self.game.g_loss(logits.float())
        if real is None:
            raise ValueError(f"real: expected images like the fakes' in the {self.game.name} game, got None")
        return self.game.g_loss(logits.float(), self._critic(real, real_y).float())


def judge(critic: nn.Module, images: Tensor, y: Tensor | None) -> Judged:
    """What a critic says of images [N, ...] with labels y, or None where it is not conditional."""
    alone = y is None or getattr(critic, "auxiliary", False)
    judged: Any = critic(images) if alone else critic(images, y)
    return judged if isinstance(judged, tuple) else (judged, None)


def learned(network: nn.Module) -> list[nn.Parameter]:
    """The weights that training moves."""
    return [weight for weight in network.parameters() if weight.requires_grad]


def _gradients(loss: Tensor, network: nn.Module, scale: Tensor | None) -> Gradients:
    # autograd.grad asks for this player's weights alone: backward() would also fill the other's.
    return torch.autograd.grad(loss if scale is None else loss * scale, learned(network), allow_unused=True)


def _detached(log: Log) -> Log:
    return {name: value.detach() for name, value in log.items()}
