"""The residual blocks of SNGAN (Miyato et al. 2018, arXiv:1802.05957) and BigGAN (arXiv:1809.11096, figure 15).

The 1×1 convolution of a shortcut runs at the lower resolution, before upsampling and after pooling: it commutes with
both, and this is a quarter of the work.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.nn import ConditionalBatchNorm, ConvBlock, spectral_norm
from fastgan.ops import bias_act


class UpBlock(nn.Module):
    """x [N, in, H, W] (and conditions c [N, features]) → [N, out, 2·H, 2·W].

    Batch norm, ReLU, nearest-neighbor upsampling, 3×3 convolution, batch norm, ReLU, 3×3 convolution. features: size of
    the condition of the batch norms; 0 for unconditional ones. norm: of the weights, "none" or "spectral".
    """

    def __init__(self, in_channels: int, out_channels: int, features: int = 0, norm: str = "none"):
        super().__init__()
        # PyTorch's convolutions: no activation follows to fuse, and no gradient penalty differentiates a generator.
        self.bn1 = _batch_norm(in_channels, features, norm)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn2 = _batch_norm(out_channels, features, norm)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_sc = nn.Conv2d(in_channels, out_channels, 1)
        if norm == "spectral":
            for conv in (self.conv1, self.conv2, self.conv_sc):
                spectral_norm(conv)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        h = _relu(self.bn1(x) if c is None else self.bn1(x, c))
        h = self.conv1(F.interpolate(h, scale_factor=2))
        h = _relu(self.bn2(h) if c is None else self.bn2(h, c))
        return self.conv2(h) + F.interpolate(self.conv_sc(x), scale_factor=2)


class DownBlock(nn.Module):
    """x [N, in, H, W] → [N, out, H/2, W/2], or [N, out, H, W] with halve=False.

    ReLU, 3×3 convolution, ReLU, 3×3 convolution, mean over 2×2 pixels if halve. hidden: channels between the two
    convolutions. norm: of the weights, "none", "batch" or "spectral". first: the input is the image; the first ReLU is
    omitted.
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, *, norm: str, halve: bool = True, first: bool = False
    ):
        super().__init__()
        self.halve, self.first = halve, first
        self.conv1 = ConvBlock(in_channels, hidden, 3, padding=1, norm=norm, act="relu")
        self.conv2 = ConvBlock(hidden, out_channels, 3, padding=1, norm=norm, act="linear")
        self.conv_sc = (
            ConvBlock(in_channels, out_channels, 1, norm=norm, act="linear")
            if halve or in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.conv1(x if self.first else _relu(x)))
        if self.halve:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + (x if self.conv_sc is None else self.conv_sc(x))


def check_norm(family: str, norm: str) -> None:
    """Raise UsageError for a norm that residual discriminators do not support."""
    if norm not in ("none", "spectral"):
        raise UsageError(f"d_norm: {family}'s discriminator supports none or spectral, got {norm!r}")


def _batch_norm(channels: int, features: int, norm: str) -> nn.Module:
    if features:
        return ConditionalBatchNorm(channels, features, spectral=norm == "spectral")
    return nn.BatchNorm2d(channels)


def _relu(x: Tensor) -> Tensor:
    return bias_act(x, None, "relu")
