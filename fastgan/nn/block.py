"""Convolution or linear layer, optional normalisation, activation: the block of which adversarial networks are made."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from fastgan.errors import UsageError
from fastgan.ops import bias_act, conv2d, conv_transpose2d

NORMS = ("none", "batch", "spectral")


class ConvBlock(nn.Module):
    """Convolution (or transposed convolution) → norm → activation, on [N, C, H, W].

    Without batch norm the bias is added together with the activation, in one pass over memory. The state dict holds
    `conv.weight`, `conv.bias` and `norm.*` (batch norm), as the plain modules would; with spectral norm it holds the
    keys of `torch.nn.utils.parametrizations.spectral_norm`.

    norm: "none", "batch" or "spectral". act: see `fastgan.ops.ACTIVATIONS`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        transposed: bool = False,
        norm: str = "none",
        act: str = "leaky_relu",
    ):
        super().__init__()
        _check_norm(norm)
        self.stride, self.padding, self.act = stride, padding, act
        with_bias = norm != "batch"  # batch norm has a bias of its own
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if transposed:
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel, stride, padding, bias=with_bias)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=with_bias)
        if norm == "spectral":
            parametrizations.spectral_norm(self.conv)
        self.norm = nn.BatchNorm2d(out_channels) if norm == "batch" else None

    def forward(self, x: Tensor) -> Tensor:
        convolve = conv_transpose2d if isinstance(self.conv, nn.ConvTranspose2d) else conv2d
        x = convolve(x, self.conv.weight, stride=self.stride, padding=self.padding)
        if self.norm is not None:
            return bias_act(self.norm(x), None, self.act)
        return bias_act(x, self.conv.bias, self.act)

    def extra_repr(self) -> str:
        return f"act={self.act}"


class LinearBlock(nn.Module):
    """Linear layer → norm → activation, on [N, C]. State dict: `linear.weight`, `linear.bias` and `norm.*`."""

    def __init__(self, in_features: int, out_features: int, *, norm: str = "none", act: str = "leaky_relu"):
        super().__init__()
        _check_norm(norm)
        self.linear = nn.Linear(in_features, out_features, bias=norm != "batch")
        if norm == "spectral":
            parametrizations.spectral_norm(self.linear)
        self.norm = nn.BatchNorm1d(out_features) if norm == "batch" else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.linear.weight)
        if self.norm is not None:
            return bias_act(self.norm(x), None, self.act)
        return bias_act(x, self.linear.bias, self.act)

    def extra_repr(self) -> str:
        return f"act={self.act}"


def _check_norm(norm: str) -> None:
    if norm not in NORMS:
        raise UsageError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
