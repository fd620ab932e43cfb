"""Modules that call fastgan's ops. Their state dicts are those of plain PyTorch modules."""

from fastgan.nn.block import ConvBlock, ConvTower, LinearBlock
from fastgan.nn.fold import fold
from fastgan.nn.fusion.fuse import fuse, fusion_report
from fastgan.nn.minibatch import MinibatchDiscrimination
from fastgan.nn.spectral import SpectralNorm
from fastgan.nn.spectral_group import group_spectral_norms, spectral_norm

__all__ = [
    "ConvBlock",
    "ConvTower",
    "LinearBlock",
    "MinibatchDiscrimination",
    "SpectralNorm",
    "fold",
    "fuse",
    "fusion_report",
    "group_spectral_norms",
    "spectral_norm",
]
