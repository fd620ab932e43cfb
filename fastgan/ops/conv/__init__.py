"""Convolutions as a closed gradient family; the library's convolutions do the arithmetic where ours are not faster."""

from fastgan.ops.conv.block import conv2d_bias_act
from fastgan.ops.conv.line import conv1d, conv_transpose1d
from fastgan.ops.conv.register import conv2d, conv_transpose2d
from fastgan.ops.conv.tower import Layer, conv2d_tower

__all__ = [
    "Layer",
    "conv1d",
    "conv2d",
    "conv2d_bias_act",
    "conv2d_tower",
    "conv_transpose1d",
    "conv_transpose2d",
]
