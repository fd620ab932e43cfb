"""Losses and penalties: functions of logits, images and networks."""

from fastgan.losses.adaptive import adaptive_sum
from fastgan.losses.adversarial import ADVERSARIAL, AdversarialLoss, Defaults
from fastgan.losses.feature_matching import feature_matching
from fastgan.losses.penalties import PENALTIES, dragan, gradient_penalty, r1, r2, zero_centered_gp
from fastgan.losses.perceptual import FeatureDistance, PerceptualLoss, perceptual_loss
from fastgan.losses.reconstruction import l1

__all__ = [
    "ADVERSARIAL",
    "PENALTIES",
    "AdversarialLoss",
    "Defaults",
    "FeatureDistance",
    "PerceptualLoss",
    "adaptive_sum",
    "dragan",
    "feature_matching",
    "gradient_penalty",
    "l1",
    "perceptual_loss",
    "r1",
    "r2",
    "zero_centered_gp",
]
