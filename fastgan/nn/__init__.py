"""Modules that call fastgan's ops. Their state dicts are those of plain PyTorch modules."""

from fastgan.nn.block import ConvBlock, ConvStack, LinearBlock
from fastgan.nn.conditional_batch_norm import ConditionalBatchNorm
from fastgan.nn.equalized import EqualizedConv, EqualizedLinear
from fastgan.nn.fold import fold
from fastgan.nn.fusion.fuse import fuse, fusion_report
from fastgan.nn.initialize import initialize
from fastgan.nn.maxout import Maxout
from fastgan.nn.minibatch import MinibatchDiscrimination
from fastgan.nn.minibatch_std import MinibatchStdDev
from fastgan.nn.orthogonal import orthogonal_regularizer
from fastgan.nn.pixel_norm import PixelNorm
from fastgan.nn.resample import Downsample, Upsample
from fastgan.nn.self_attention import SelfAttention
from fastgan.nn.spectral import SpectralNorm
from fastgan.nn.spectral_group import group_spectral_norms, spectral_norm

__all__ = [
    "ConditionalBatchNorm",
    "ConvBlock",
    "ConvStack",
    "Downsample",
    "EqualizedConv",
    "EqualizedLinear",
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
    "initialize",
    "orthogonal_regularizer",
    "spectral_norm",
]
