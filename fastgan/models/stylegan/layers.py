"""Layers of the StyleGAN networks, with equalized learning rates (Karras et al. 2018, arXiv:1710.10196, section 4.1).

Their parameters and buffers have the names that public checkpoints use, so that state dicts need no table of names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import one_hot, reject_labels
from fastgan.ops import bias_act, conv2d, conv2d_bias_act, upfirdn2d

GAIN = sqrt(2)  # He's, for leaky ReLUs
SLOPE = 0.2  # of leaky ReLUs below zero

#: Options of the original constructors that select how something is computed, and not what. Files contain them.
SPEED_OPTIONS = frozenset({"fused_modconv_default", "fp16_channels_last", "channels_last", "use_fp16"})


class Dense(nn.Module):
    """x [N, in_features] → act(x · weight ᵀ + bias) [N, out_features].

    The stored weight is divided by lr_multiplier and drawn from N(0, 1); it is used times lr_multiplier / √in_features.
    bias: its value at the beginning, stored divided by lr_multiplier. act: "linear" or "leaky_relu" (with gain √2).
    It is computed in the dtype of its weight also under autocast: w, styles and logits need the precision.
    """

    def __init__(
        self, in_features: int, out_features: int, *, act: str = "linear", lr_multiplier: float = 1.0, bias: float = 0.0
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias / lr_multiplier))
        self.act, self.lr_multiplier, self.scale = act, lr_multiplier, lr_multiplier / sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):
            # The matrix product multiplies by both factors, so that no scaled copy of the weight is made.
            x = x.to(self.weight.dtype)
            x = torch.addmm(self.bias, x, self.weight.t(), beta=self.lr_multiplier, alpha=self.scale)
        return x if self.act == "linear" else bias_act(x, None, self.act, alpha=SLOPE, gain=GAIN)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, act={self.act}"


class Conv(nn.Module):
    """x [N, I, H, W] → act(filter, decimate, x ∗ weight + bias) · gain, clamped: a layer of the discriminator.

    kernel: odd, with padding kernel // 2. down: 1, or 2: x is low-pass filtered by `filter` and H and W are halved.
    act: "linear" or "leaky_relu" (with gain √2, beside `gain` of forward). clamp: of |y| / gain, or None.
    """

    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, act: str = "leaky_relu", bias: bool = True,
        down: int = 1, filter: Sequence[float] = (1, 3, 3, 1), clamp: float | None = None,
    ):  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("resample_filter", low_pass(filter))  # also where it is not used, as in public files
        self.act, self.down, self.clamp = act, down, clamp
        self.scale, self.padding = 1 / sqrt(in_channels * kernel**2), kernel // 2

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        weight, stride, padding = self.weight * self.scale, 1, self.padding
        if self.down > 1:
            taps = self.resample_filter.shape[-1]
            before, after = padding + (taps - self.down + 1) // 2, padding + (taps - self.down) // 2
            # A 1×1 convolution commutes with the decimation, so that it runs on a quarter of the pixels.
            down = self.down if padding == 0 else 1
            x = upfirdn2d(x, self.resample_filter, down=down, padding=(before, after, before, after))
            stride, padding = self.down // down, 0
        clamp = None if self.clamp is None else self.clamp * gain
        gain = gain * (1.0 if self.act == "linear" else GAIN)
        if self.bias is None and self.act == "linear" and clamp is None:
            return conv2d(x, weight * gain, stride=stride, padding=padding)
        return conv2d_bias_act(
            x, weight, self.bias, self.act, stride=stride, padding=padding, alpha=SLOPE, gain=gain, clamp=clamp
        )

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, act={self.act}, down={self.down}"


def low_pass(taps: Sequence[float]) -> Tensor:
    """The separable filter of `taps`, normalized to the sum 1: float32 [len(taps), len(taps)]."""
    if not taps or sum(taps) == 0:
        raise UsageError(f"resample_filter: expected numbers whose sum is not 0, such as [1, 3, 3, 1], got {taps}")
    row = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    return row.outer(row)


def condition_of(c: Tensor | None, classes: int, like: Tensor) -> Tensor:
    """Labels c, int64 [N], or rows c, floating [N, classes], as rows [N, classes] in the dtype of `like`.

    Raises UsageError for others.
    """
    if c is not None and c.is_floating_point() and c.dim() == 2 and c.shape[1] == classes:
        return c.to(like.dtype)
    return one_hot(c, classes, like, "c")


def check_condition(c: Tensor | None, classes: int) -> None:
    """Raise UsageError if an unconditional network is given labels; c [N, 0] is none."""
    if not classes and c is not None and c.numel():
        reject_labels(c, "c")


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context without autocast."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


def resolutions(resolution: int, least: int = 4) -> list[int]:
    """4, 8, 16, ... up to an image's side. Raises UsageError where it is no power of two from `least`."""
    if resolution < least or resolution & (resolution - 1):
        near = max(least, 1 << max(resolution, 1).bit_length() - 1)
        raise UsageError(
            f"resolution: stylegan2 and the discriminator of stylegan3 support powers of two from {least}, got"
            f" {resolution}; give {near} or {2 * near} (the generator of stylegan3 alone takes any number from 16)"
        )
    return [1 << i for i in range(2, resolution.bit_length())]


def check_options(what: str, options: Mapping[str, Any], supported: Mapping[str, Collection[Any]]) -> None:
    """Check the remaining arguments of an original constructor.

    supported: name → values that have an implementation here. SPEED_OPTIONS are ignored. Raises UsageError for others.
    """
    for name, value in options.items():
        if name in SPEED_OPTIONS:
            continue
        if name not in supported:
            raise UsageError(f"{name}: not an option of {what}")
        if value not in supported[name]:
            expected = " or ".join(map(repr, supported[name]))
            raise UsageError(f"{name}: {what} supports {expected}, got {value!r}")
