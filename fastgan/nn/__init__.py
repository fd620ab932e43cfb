"""Modules that call fastgan's ops. Their state dicts are those of plain PyTorch modules."""

from fastgan.nn.block import ConvBlock, LinearBlock

__all__ = ["ConvBlock", "LinearBlock"]
