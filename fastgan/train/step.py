"""One step of each player, as functions of tensors: the algorithm reads top to bottom.

Nothing here draws noise or changes a weight, so that a step can be compiled whole. The loop around it is in loop.py,
what becomes of the gradients in update.py, how both networks are called in pair.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastgan.errors import UsageError
from fastgan.losses import PENALTIES, feature_matching, l1
from fastgan.train.monitor import statistics
from fastgan.train.pair import Judged, Pair, learned
from fastgan.train.regularization import Draws
from fastgan.train.regularization.augment import translation
from fastgan.train.regularization.packing import packed
from fastgan.train.regularization.unroll import Ahead, look_ahead

Log = dict[str, Tensor]
Gradients = tuple[Tensor | None, ...]


class Players(Pair):
    """Both networks and what each learns in a step.

    y: labels, int64 [N], or sources (see Pair). draws: what the remedies of the configuration take (remedies/run.py);
    those whose part is missing are left out of the step. scale: of the loss in fp16; the gradients carry it.
    """

    def d_step(
        self,
        real: Tensor,
        z: Tensor,
        epsilon: Tensor | None = None,
        scale: Tensor | None = None,
        *,
        lazy: bool = False,
        y: Tensor | None = None,
        draws: Draws | None = None,
    ) -> tuple[Log, Gradients]:
        """What the discriminator learns from real [N, C, H, W] against G(z): what to log, and its weights' gradients.

        With a history the log holds G(z) too, as "fakes".

        epsilon [N, 1, 1, 1]: where between real and fake penalties look that look there, for each image or pack. lazy:
        whether this step has the penalties of every so many steps. y: labels of the real images, which the fakes take
        too: so the discriminator cannot tell them by how often a class comes.
        """
        draws = draws or {}
        with self.autocast(real):
            with torch.no_grad():
                made = self.generate(z, y)
            if made.shape != real.shape:
                came, wanted = list(made.shape), list(real.shape)
                raise ValueError(f"generator: expected images like the real ones {wanted}, got {came}")
            fake, fake_y = _with_past(made, y, draws)
            seen, fake = self.shown(real, "real", draws), self.shown(fake, "fake", draws)
            of_real, of_fake = self.judge_both(seen, y, fake, fake_y)
            loss, log = self._d_loss(of_real, y, of_fake, fake_y)
            log |= {
                "logit/real": of_real[0].mean(),
                "logit/fake": of_fake[0].mean(),
                "range/real_min": real.amin(),
                "range/real_max": real.amax(),
                "range/fake_min": made.amin(),
                "range/fake_max": made.amax(),
                **statistics(real, made, of_real[0], of_fake[0]),
            }
            if "p" in draws:
                log["augment/sign"] = (of_real[0].float() - (self.game.undecided or 0.0)).sign().mean()
            if "shift.real" in draws:
                log["penalty/consistency"] = change = self._change(seen, y, of_real, draws["shift.real"])
                loss = loss + self.config.consistency * change
            if "shift.fake" in draws:
                log["penalty/consistency_fake"] = change = self._change(fake, fake_y, of_fake, draws["shift.fake"])
                loss = loss + self.config.consistency_fake * change
            real_packs, fake_packs = packed(seen, self.config.pack), packed(fake, self.config.pack)
            for name, weight in self.penalties(lazy).items():
                log[f"penalty/{name}"] = penalty = PENALTIES[name](
                    self.logits_of_packs, real_packs, fake_packs, fake_y if name == "r2" else y,
                    weight=weight, epsilon=epsilon, scale=1.0 if scale is None else scale,
                )  # fmt: skip
                loss = loss + penalty
            if self.config.history:
                log["fakes"] = made
        return _detached(log), _gradients(loss, self.discriminator, scale, "discriminator")

    def g_step(
        self,
        z: Tensor,
        scale: Tensor | None = None,
        *,
        lazy: bool = True,
        y: Tensor | None = None,
        real: Tensor | None = None,
        real_y: Tensor | None = None,
        draws: Draws | None = None,
        ahead: Ahead | None = None,
    ) -> tuple[Log, Gradients]:
        """What the generator learns from the discriminator's view of G(z). The discriminator's weights take no gradient.

        lazy: whether this step has the feature matching and L1 of every so many steps. y: the classes that it is to
        make, or its sources. real: images to set beside the fakes, where `beside` (the sources' targets), and real_y
        what the discriminator is told of them. ahead: the state of the discriminator's optimizer, where the generator lets the discriminator
        look ahead.
        """
        draws = draws or {}
        with self.autocast(z):
            made = self.generate(z, y)
            fake = self.shown(made, "fake", draws)
            of_features, of_l1 = self.matching(lazy)
            if real is None and (self.game.paired or of_l1):
                where = f"in the {self.game.name} game" if self.game.paired else "with an l1_weight"
                raise ValueError(f"real: expected images like the fakes' {where}, got None")
            seen = fake if real is None else self.shown(real, "real", draws)
            weights = None if ahead is None else self._look_ahead(seen, real_y, fake, y, ahead)
            (logits, classes), features = self.judge_with_features(fake, y, weights, of_features > 0)
            if self.game.paired or features is not None:
                (real_logits, _), real_features = self.judge_with_features(seen, real_y, weights, of_features > 0)
            if self.game.paired:
                loss = self.game.g_loss(logits.float(), real_logits.float())
            else:
                loss = self.game.g_loss(logits.float())
            log = {"loss/generator": loss}
            if y is not None and classes is not None:
                log["loss/generator_classes"] = cross_entropy(classes.float(), y)
                loss = loss + self.config.auxiliary_weight * log["loss/generator_classes"]
            if features is not None:
                log["loss/features"] = feature_matching(features.float(), real_features.float())
                loss = loss + of_features * log["loss/features"]
            if real is not None and of_l1:
                log["l1/batch"] = l1(made.float(), real.float())
                loss = loss + of_l1 * log["l1/batch"]
        return _detached(log), _gradients(loss, self.generator, scale, "generator")

    def _d_loss(self, of_real: Judged, y: Tensor | None, of_fake: Judged, fake_y: Tensor | None) -> tuple[Tensor, Log]:
        """The game's loss and that of the auxiliary classifier together, and both for the log."""
        smoothing = {"smoothing": self.config.label_smoothing} if self.config.label_smoothing else {}
        loss = self.game.d_loss(of_real[0].float(), of_fake[0].float(), **smoothing)
        log = {"loss/discriminator": loss}
        if y is not None and fake_y is not None and of_real[1] is not None and of_fake[1] is not None:
            # Odena et al. 2017 (arXiv:1610.09585), equation 3: both kinds of images are classified.
            both = cross_entropy(of_real[1].float(), y) + cross_entropy(of_fake[1].float(), fake_y)
            log["loss/classes"] = both
            loss = loss + self.config.auxiliary_weight * both
        return loss, log

    def _change(self, images: Tensor, y: Tensor | None, judged: Judged, shift: Tensor) -> Tensor:
        """E (D(x) − D(T(x)))², T a shift: CR-GAN, Zhang et al. 2020 (arXiv:1910.12027), algorithm 1.

        Of fakes as well it is balanced consistency regularization, Zhao et al. 2020 (arXiv:2002.04724).
        """
        moved = self.judge(translation(images, shift), y)[0]
        return (judged[0].float() - moved.float()).square().mean()

    def _look_ahead(
        self, real: Tensor, real_y: Tensor | None, fake: Tensor, y: Tensor | None, ahead: Ahead
    ) -> Mapping[str, Tensor]:
        """The discriminator's weights after so many of its own steps on these images."""

        def loss_of(weights: Mapping[str, Tensor]) -> Tensor:
            return self._d_loss(self.judge(real, real_y, weights), real_y, self.judge(fake, y, weights), y)[0]

        own = {name: weight for name, weight in self.discriminator.named_parameters() if weight.requires_grad}
        betas = (self.config.beta1 or 0.0, self.config.beta2 or 0.0)
        return look_ahead(loss_of, own, self.config.unroll, ahead, betas)


def _with_past(made: Tensor, y: Tensor | None, draws: Draws) -> tuple[Tensor, Tensor | None]:
    """Fakes whose first ones are replaced by past ones, and the labels of them all."""
    if "past" not in draws:
        return made, y
    past, past_y = draws["past"], draws.get("past_y")
    both = torch.cat([past.to(made.dtype), made[len(past) :]])
    return both, None if y is None or past_y is None else torch.cat([past_y, y[len(past) :]])


def _gradients(loss: Tensor, network: nn.Module, scale: Tensor | None, player: str) -> Gradients:
    gradients: Gradients = ()
    if loss.requires_grad and (weights := learned(network)):
        # autograd.grad asks for this player's weights alone: backward() would also fill the other's.
        gradients = torch.autograd.grad(loss if scale is None else loss * scale, weights, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise UsageError(
            f"{player}: expected one whose output depends on its weights, got {type(network).__name__}, of which no"
            " weight takes a gradient; is its output detached, or made under no_grad?"
        )
    return gradients


def _detached(log: Log) -> Log:
    return {name: value.detach() for name, value in log.items()}
