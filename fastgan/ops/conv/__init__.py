"""Convolutions as a closed gradient family; the library's convolutions do the arithmetic where ours are not faster."""

from fastgan.ops.conv.block import conv2d_bias_act
from fastgan.ops.conv.register import conv2d, conv_transpose2d
from fastgan.ops.conv.tower import Layer, conv2d_tower

__all__ = ["Layer", "conv2d", "conv2d_bias_act", "conv2d_tower", "conv_transpose2d"]
