"""Spectral normalization of a group of weights: power iteration, scaling, and the gradient, each for all at once."""

from fastgan.ops.spectral_norm.register import power_iteration, spectral_normalize, spectral_scale

__all__ = ["power_iteration", "spectral_normalize", "spectral_scale"]
