"""Modules that call fastgan's ops. Their state dicts are those of plain PyTorch modules."""

from fastgan.nn.block import ConvBlock, ConvTower, LinearBlock
from fastgan.nn.conditional_batch_norm import ConditionalBatchNorm
from fastgan.nn.equalised import EqualisedConv, EqualisedLinear
from fastgan.nn.fold import fold
from fastgan.nn.fusion.fuse import fuse, fusion_report
from fastgan.nn.initialise import initialise
from fastgan.nn.maxout import Maxout
from fastgan.nn.minibatch import MinibatchDiscrimination
from fastgan.nn.minibatch_std import MinibatchStdDev
from fastgan.nn.orthogonal import orthogonal_regulariser
from fastgan.nn.pixel_norm import PixelNorm
from fastgan.nn.resample import Downsample, Upsample
from fastgan.nn.self_attention import SelfAttention
from fastgan.nn.spectral import SpectralNorm
from fastgan.nn.spectral_group import group_spectral_norms, spectral_norm

__all__ = [
    "ConditionalBatchNorm",
    "ConvBlock",
    "ConvTower",
    "Downsample",
    "EqualisedConv",
    "EqualisedLinear",
    "LinearBlock",
    "Maxout",
    "MinibatchDiscrimination",
    "MinibatchStdDev",
    "PixelNorm",
    "SelfAttention",
    "SpectralNorm",
    "Upsample",
    "fold",
    "fuse",
    "fusion_report",
    "group_spectral_norms",
    "initialise",
    "orthogonal_regulariser",
    "spectral_norm",
]
