"""Modules that call fastgan's ops. Their state dicts are those of plain PyTorch modules."""

from fastgan.nn.block import ConvBlock, LinearBlock
from fastgan.nn.fuse import fuse, fusion_report

__all__ = ["ConvBlock", "LinearBlock", "fuse", "fusion_report"]
