"""Frozen feature networks: ImageNet backbones whose weights are pip packages or a user's file."""

from fastgan.models.backbones.frozen import BACKBONES, FrozenBackbone, without_weights
from fastgan.models.backbones.vgg import FrozenVGG
from fastgan.models.backbones.weights import fetch_weights, load_weights, read_weights

__all__ = [
    "BACKBONES",
    "FrozenBackbone",
    "FrozenVGG",
    "fetch_weights",
    "load_weights",
    "read_weights",
    "without_weights",
]
