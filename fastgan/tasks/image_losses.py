"""The terms that the losses of image tasks add up: adversarial, consistency, penalties, classes, feature matching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fastgan.losses import PENALTIES, feature_matching, layer_matching
from fastgan.regularization.augment import translation
from fastgan.regularization.unroll import look_ahead
from fastgan.tasks.networks import (
    Output,
    discriminate,
    discriminate_jointly,
    discriminate_with_features,
    discriminate_with_layers,
)

if TYPE_CHECKING:
    from fastgan.tasks.base import Noise
    from fastgan.tasks.generation import Generation

Terms = tuple[Tensor, dict[str, Tensor]]
#: Images [N, C, H, W] as the discriminator sees them, and the labels or sources beside them.
Shown = tuple[Tensor, Tensor | None]


def outputs(task: Generation, real: Shown, fake: Shown) -> tuple[Output, Output]:
    """What the discriminator returns for both, as one batch where the task's `joint` says so."""
    if not task.joint:
        return task.discriminate(*real), task.discriminate(*fake)
    return discriminate_jointly(task.discriminator, task.packed(real[0]), real[1], task.packed(fake[0]), fake[1])


def discriminator_terms(
    task: Generation, of_real: Output, condition: Tensor | None, of_fake: Output, fake_condition: Tensor | None
) -> Terms:
    """The adversarial loss and that of an auxiliary classifier, and both for the log."""
    smoothing = task.regularization.config.label_smoothing
    options = {"smoothing": smoothing} if smoothing else {}
    value = over_scales(lambda real, fake: task.loss.d_loss(real, fake, **options), of_real, of_fake)
    log = {"loss/discriminator": value}
    if condition is not None and fake_condition is not None and of_real.classes is not None:
        assert of_fake.classes is not None
        # Odena et al. 2017 (arXiv:1610.09585), equation 3: real and fake images are both classified.
        both = cross_entropy(of_real.classes.float(), condition) + cross_entropy(
            of_fake.classes.float(), fake_condition
        )
        log["loss/classes"] = both
        value = value + task.config.auxiliary_weight * both
    return value, log


def over_scales(loss: Callable[..., Tensor], *outputs: Output) -> Tensor:
    """A loss of logits; of discriminators at several scales the sum of their losses (arXiv:1711.11585, equation 3)."""
    logits, scales = [output.logits.float() for output in outputs], list(outputs[0].scales)
    if not scales:
        return loss(*logits)
    first, *others = (loss(*of_scale) for of_scale in zip(*(each.split(scales, 1) for each in logits), strict=True))
    return sum(others, first)


def added_terms(
    task: Generation, real: Shown, of_real: Output, fake: Shown, of_fake: Output, noise: Noise
) -> Iterator[tuple[str, float, Tensor]]:
    """Consistency and gradient penalties of the discriminator in this step: name in the log, weight, value."""
    weights = task.regularization.config
    if "shift.real" in noise:
        yield "penalty/consistency", weights.consistency, _change(task, real, of_real, noise["shift.real"])
    if "shift.fake" in noise:
        yield "penalty/consistency_fake", weights.consistency_fake, _change(task, fake, of_fake, noise["shift.fake"])
    packs = task.packed(real[0]), task.packed(fake[0])
    for name, weight in task.config.penalties(task.loss, noise.get("lazy", False)).items():
        # Logged as they are added, with their weight.
        yield f"penalty/{name}", 1.0, PENALTIES[name](
            lambda images, *condition: discriminate(task.discriminator, images, *condition).logits,
            *packs, fake[1] if name == "r2" else real[1],
            weight=weight, epsilon=noise.get("epsilon"), scale=noise.get("loss_scale", 1.0),
        )  # fmt: skip


def _change(task: Generation, shown: Shown, output: Output, shift: Tensor) -> Tensor:
    """E (D(x) − D(T(x)))², T a shift: CR-GAN, Zhang et al. 2020 (arXiv:1910.12027), algorithm 1.

    Of fakes as well it is balanced consistency regularization, Zhao et al. 2020 (arXiv:2002.04724).
    """
    moved = task.discriminate(translation(shown[0], shift), shown[1]).logits
    return (output.logits.float() - moved.float()).square().mean()


def generator_terms(
    task: Generation, fake: Shown, real: Shown | None, weights: Mapping[str, Tensor] | None, matching: float
) -> Terms:
    """The adversarial loss, that of an auxiliary classifier and both kinds of feature matching, and each for the log.

    real: where the loss or feature matching compares with real images. weights: of an unrolled discriminator.
    """
    network = task.discriminator

    def output(shown: Shown) -> tuple[Output, Any]:
        if task.layer_matching:
            return discriminate_with_layers(network, task.packed(shown[0]), shown[1])
        return discriminate_with_features(network, task.packed(shown[0]), shown[1], weights, matching > 0)

    of_fake, features = output(fake)
    of_real, real_features = None, None
    if real is not None:
        # Real images depend on the generator through an unrolled discriminator alone.
        with torch.set_grad_enabled(torch.is_grad_enabled() and weights is not None):
            of_real, real_features = output(real)
    if task.loss.paired:
        assert of_real is not None
        value = over_scales(task.loss.g_loss, of_fake, of_real)
    else:
        value = over_scales(task.loss.g_loss, of_fake)
    log = {"loss/generator": value}
    if fake[1] is not None and of_fake.classes is not None:
        log["loss/generator_classes"] = cross_entropy(of_fake.classes.float(), fake[1])
        value = value + task.config.auxiliary_weight * log["loss/generator_classes"]
    if task.layer_matching and real_features is not None:
        log["loss/layers"] = layer_matching(features, real_features)
        value = value + task.layer_matching * log["loss/layers"]
    elif features is not None and real_features is not None:
        log["loss/features"] = feature_matching(features.float(), real_features.float())
        value = value + matching * log["loss/features"]
    return value, log


def unrolled_weights(task: Generation, real: Shown, fake: Shown, noise: Noise) -> Mapping[str, Tensor] | None:
    """The discriminator's weights after so many of its own steps on these images, or None where it is not unrolled."""
    if "optimizer" not in noise:
        return None

    def loss_of(weights: Mapping[str, Tensor]) -> Tensor:
        of_real, of_fake = task.discriminate(*real, weights), task.discriminate(*fake, weights)
        return discriminator_terms(task, of_real, real[1], of_fake, fake[1])[0]

    own = {name: weight for name, weight in task.discriminator.named_parameters() if weight.requires_grad}
    return look_ahead(loss_of, own, task.regularization.config.unroll, noise["optimizer"])
