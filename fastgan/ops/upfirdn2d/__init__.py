"""Pad, upsample, filter and downsample images in one pass."""

from fastgan.ops.upfirdn2d.register import upfirdn2d

__all__ = ["upfirdn2d"]
