"""Convolutions as a closed gradient family. PyTorch's convolutions compute them wherever our kernels are not faster."""

from fastgan.ops.conv.block import conv2d_bias_act
from fastgan.ops.conv.conv1d import conv1d, conv_transpose1d
from fastgan.ops.conv.layers import ConvLayer, conv2d_stack
from fastgan.ops.conv.register import conv2d, conv_transpose2d

__all__ = [
    "ConvLayer",
    "conv1d",
    "conv2d",
    "conv2d_bias_act",
    "conv2d_stack",
    "conv_transpose1d",
    "conv_transpose2d",
]
