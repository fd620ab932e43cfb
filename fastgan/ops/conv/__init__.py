"""Convolutions as a closed gradient family; the library's convolutions do the arithmetic."""

from fastgan.ops.conv.register import conv2d, conv_transpose2d

__all__ = ["conv2d", "conv_transpose2d"]
