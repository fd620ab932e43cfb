"""Losses and penalties: functions of logits, images and networks."""

from fastgan.losses.adaptive import adaptive_sum
from fastgan.losses.adversarial import ADVERSARIAL, AdversarialLoss, Defaults
from fastgan.losses.matching import feature_matching, layer_matching
from fastgan.losses.penalties import PENALTIES, dragan, gradient_penalty, r1, r2, zero_centered_gp
from fastgan.losses.perceptual import FeatureDistance, PerceptualLoss, perceptual_loss
from fastgan.losses.reconstruction import (
    charbonnier,
    focal_frequency,
    gradient,
    l1,
    ms_ssim,
    ssim,
)

__all__ = [
    "ADVERSARIAL",
    "PENALTIES",
    "AdversarialLoss",
    "Defaults",
    "FeatureDistance",
    "PerceptualLoss",
    "adaptive_sum",
    "charbonnier",
    "dragan",
    "feature_matching",
    "focal_frequency",
    "gradient",
    "gradient_penalty",
    "l1",
    "layer_matching",
    "ms_ssim",
    "perceptual_loss",
    "r1",
    "r2",
    "ssim",
    "zero_centered_gp",
]
