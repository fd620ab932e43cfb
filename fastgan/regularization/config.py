"""Options of the regularization: methods against mode collapse and an overfitting discriminator."""

from __future__ import annotations

from dataclasses import dataclass

from fastgan._util.checks import AT_LEAST_ONE, FRACTION, NOT_NEGATIVE, expect
from fastgan._util.options import option
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss
from fastgan.regularization.ada.pipeline import KINDS as ADA_KINDS
from fastgan.regularization.ada.pipeline import PIPELINES
from fastgan.regularization.augment import KINDS, kinds_of


@dataclass(frozen=True)
class RegularizationConfig:
    """Each is off as long as its number is 0 (`pack`: 1; `augment`: none)."""

    label_smoothing: float = 0.0
    """how far below 1 the discriminator's target for real images is, in losses that have one"""
    instance_noise: float = 0.0
    """standard deviation, at the first step, of the noise on all images that the discriminator sees"""
    instance_noise_steps: int | None = None
    """generator steps in which that noise falls to 0; all of them when left out"""
    augment: str = "none"
    """differentiable augmentation of all images that the discriminator sees: color, translation, cutout; blit,
    geometric, ada-color, filter, noise, ada-cutout; ada (the first three of those) or ada-all; joined by +"""
    ada_target: float = 0.0
    """0 augments every image; else as many as keep the mean sign of real logits at this value (0.6 is usual)"""
    ada_images: int = 500_000
    """images in which adaptive augmentation can go from none to all"""
    ada_interval: int = 4
    """discriminator steps between two adjustments of adaptive augmentation"""
    consistency: float = 0.0
    """weight of the discriminator's change when a real image is shifted"""
    consistency_fake: float = 0.0
    """the same for fake images"""
    pack: int = 1
    """images that the discriminator classifies together, stacked in channels (PacGAN)"""
    unroll: int = 0
    """discriminator steps that the generator's loss is unrolled through"""
    history: int = 0
    """past fakes that are kept, to be half of those that the discriminator sees"""
    historical_averaging: float = 0.0
    """weight of the distance of both networks' weights from their mean over time"""
    freeze_d: int = 0
    """blocks of the discriminator, from its images on, whose weights stay as they are (FreezeD, for fine-tuning)"""
    style_mixing: float = 0.0
    """part of the generated images that mix the styles of two latents (0.9 in StyleGAN2), in networks with styles"""
    path_length: float = 0.0
    """weight of path length regularization in the generator's loss (2 is usual), in networks with styles"""
    path_length_interval: int = 4
    """generator steps between two with path length regularization, whose weight is multiplied accordingly"""

    def __post_init__(self) -> None:
        expect(
            self, ("instance_noise_steps", "ada_images", "ada_interval", "pack", "path_length_interval"), AT_LEAST_ONE
        )
        names = (
            "instance_noise",
            "consistency",
            "consistency_fake",
            "unroll",
            "history",
            "historical_averaging",
            "freeze_d",
        )
        expect(self, (*names, "path_length"), NOT_NEGATIVE)
        expect(self, ("style_mixing",), (lambda value: 0 <= value <= 1, "a number in [0, 1]"))
        expect(self, ("ada_target",), FRACTION)
        expect(self, ("label_smoothing",), (lambda value: 0 <= value < 0.5, "a number in [0, 0.5)"))
        kinds, every = kinds_of(self.augment), {**KINDS, **ADA_KINDS}
        if set(kinds) - set(every) or len(set(kinds)) < len(kinds):
            known = ", ".join((*every, *PIPELINES))
            raise UsageError(f"augment: expected none, or some of {known} joined by +, each once, got {self.augment!r}")
        if self.ada_target and self.augment == "none":
            raise UsageError(
                f"ada_target: there is nothing to adapt; give {option('augment', 'color+translation+cutout')}"
            )

    def check(self, loss: AdversarialLoss, batch: int) -> None:
        """Raise UsageError where a method does not fit the adversarial loss or the batch size."""
        if batch % self.pack:
            raise UsageError(
                f"pack: a batch of {batch} is not divisible by {self.pack}; give {option('batch')} that is"
            )
        if self.label_smoothing and not loss.labels:
            raise UsageError(
                f"label_smoothing: {loss.name} has no target value for real images; use it with minimax, non-saturating"
                " or least-squares"
            )
        if self.ada_target and loss.undecided is None:
            raise UsageError(
                f"ada_target: the sign of a logit has no meaning in {loss.name}; use {option('augment')} alone, or"
                " another loss"
            )
        if 0 < self.history < batch // 2:
            raise UsageError(
                f"history: half of a batch of {batch} comes from it, so it must hold as many, got {self.history}"
            )
