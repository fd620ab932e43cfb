"""Bias, upsampling, leaky ReLU and downsampling in one op: StyleGAN3's nonlinearity without aliasing."""

from fastgan.ops.filtered_lrelu.register import filtered_lrelu

__all__ = ["filtered_lrelu"]
