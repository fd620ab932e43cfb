"""Frozen feature networks: ImageNet backbones whose weights are pip packages."""

from fastgan.models.backbones.frozen import BACKBONES, FrozenBackbone, without_weights
from fastgan.models.backbones.weights import fetch_weights, load_weights, read_weights

__all__ = ["BACKBONES", "FrozenBackbone", "fetch_weights", "load_weights", "read_weights", "without_weights"]
