"""StyleGAN2's discriminator (Karras et al. 2020, arXiv:1912.04958), which StyleGAN3 has too.

Residual blocks halve the side; the last one compares the samples of a batch (minibatch standard deviation). With labels
the logit is the projection of the features on the label, mapped as in the generator (arXiv:2006.06676).

State dicts have the keys of the public checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.stylegan.layers import (
    Conv,
    Dense,
    check_condition,
    check_options,
    full_precision,
    low_pass,
    resolutions,
)
from fastgan.models.stylegan.mapping import Mapping
from fastgan.nn import MinibatchStdDev
from fastgan.nn.plain_tensor import is_traced

ARCHITECTURES = ("resnet", "orig")


class Discriminator(nn.Module):
    """Images [N, img_channels, R, R], and labels c int64 [N] or rows [N, c_dim] where c_dim > 0, → logits [N].

    The arguments are the original's. img_resolution: R, a power of two from 8. architecture: "resnet", or "orig",
    without residual connections, as for CIFAR-10 in arXiv:2006.06676. cmap_dim: size of the mapped label, None for
    the channels at 4×4. block_kwargs: `resample_filter`, and `freeze_layers`, so many layers from the image on that are
    not trained. epilogue_kwargs: `mbstd_group_size`, samples in a group of the minibatch standard deviation.
    The others as in `stylegan2.Generator`. Raises UsageError for values without an implementation.
    """

    auxiliary = False

    def __init__(
        self, c_dim: int, img_resolution: int, img_channels: int, architecture: str = "resnet",
        channel_base: int = 32768, channel_max: int = 512, num_fp16_res: int = 4, conv_clamp: float | None = 256,
        cmap_dim: int | None = None, block_kwargs: dict[str, Any] | None = None,
        mapping_kwargs: dict[str, Any] | None = None, epilogue_kwargs: dict[str, Any] | None = None,
    ):  # fmt: skip
        super().__init__()
        #: Of the constructor, as in `StyleGenerator`.
        self.arguments: dict[str, Any] = {
            "c_dim": c_dim, "img_resolution": img_resolution, "img_channels": img_channels,
            "architecture": architecture, "channel_base": channel_base, "channel_max": channel_max,
            "num_fp16_res": num_fp16_res, "conv_clamp": conv_clamp, "cmap_dim": cmap_dim,
            "block_kwargs": block_kwargs or {}, "mapping_kwargs": mapping_kwargs or {},
            "epilogue_kwargs": epilogue_kwargs or {},
        }  # fmt: skip
        check_options("StyleGAN2's discriminator", {"architecture": architecture}, {"architecture": ARCHITECTURES})
        self.classes = self.c_dim = c_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        sides = resolutions(img_resolution, 8)
        self.half_from = max(img_resolution >> num_fp16_res - 1 if num_fp16_res else 2 * img_resolution, 8)
        channels = {side: min(channel_base // side, channel_max) for side in sides}
        if channels[img_resolution] < 1:
            raise UsageError(f"channel_base: expected a number >= img_resolution {img_resolution}, got {channel_base}")
        self.sides = sides[:0:-1]  # of the residual blocks
        for side in self.sides:
            first = img_channels if side == img_resolution else 0
            block = Block(
                first, channels[side], channels[side // 2], architecture == "resnet", conv_clamp, **block_kwargs or {}
            )
            self.add_module(f"b{side}", block)
        mapped = (channels[4] if cmap_dim is None else cmap_dim) if c_dim else 0
        if c_dim:
            options = {"w_avg_beta": None, **(mapping_kwargs or {})}
            self.mapping = Mapping(0, c_dim, mapped, None, **options)
        self.b4 = Epilogue(channels[4], mapped, conv_clamp, **epilogue_kwargs or {})
        self._freeze((block_kwargs or {}).get("freeze_layers", 0))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        check_condition(c, self.c_dim)
        expected = (self.img_channels, self.img_resolution, self.img_resolution)
        if x.shape[1:] != expected:
            raise UsageError(f"x: expected images [N, {', '.join(map(str, expected))}], got {list(x.shape)}")
        if x.is_cpu and not is_traced(x):
            # oneDNN's convolutions and upfirdn2d are faster in it, and every later map has the layout of the first. On
            # a GPU the layout is the caller's choice.
            x = x.contiguous(memory_format=torch.channels_last)
        for side in self.sides:
            block = self.get_submodule(f"b{side}")
            if side < self.half_from:
                with full_precision(x):
                    x = block(x.to(self.b4.conv.weight.dtype))  # the block before it may compute in half precision
            else:
                x = block(x)
        with full_precision(x):
            return self.b4(x, self.mapping(None, c) if self.c_dim else None)

    def _freeze(self, count: int) -> None:
        layers = [layer for side in self.sides for layer in self.get_submodule(f"b{side}").children()]
        for layer in layers[:count]:
            layer.requires_grad_(False)


class Block(nn.Module):
    """x [N, in_channels, R, R], or images where img_channels > 0, → [N, out_channels, R/2, R/2]."""

    resample_filter: Tensor

    def __init__(
        self, img_channels: int, in_channels: int, out_channels: int, residual: bool, clamp: float | None,
        resample_filter: Sequence[float] = (1, 3, 3, 1), freeze_layers: int = 0, **others: Any,
    ):  # fmt: skip
        super().__init__()
        check_options("StyleGAN2's discriminator", others, {"activation": ["lrelu"]})
        if freeze_layers < 0:
            raise UsageError(f"freeze_layers: expected a number >= 0, got {freeze_layers}")
        self.register_buffer("resample_filter", low_pass(resample_filter))
        # The order of the layers is that in which freeze_layers counts them.
        if img_channels:
            self.fromrgb = Conv(img_channels, in_channels, 1, filter=resample_filter, clamp=clamp)
        self.from_image = img_channels > 0
        self.conv0 = Conv(in_channels, in_channels, 3, filter=resample_filter, clamp=clamp)
        self.conv1 = Conv(in_channels, out_channels, 3, down=2, filter=resample_filter, clamp=clamp)
        self.residual = residual
        if residual:
            self.skip = Conv(in_channels, out_channels, 1, act="linear", bias=False, down=2, filter=resample_filter)

    def forward(self, x: Tensor) -> Tensor:
        if self.from_image:
            x = self.fromrgb(x)
        if not self.residual:
            return self.conv1(self.conv0(x))
        skip = self.skip(x, gain=sqrt(0.5))
        return skip + self.conv1(self.conv0(x), gain=sqrt(0.5))


class Epilogue(nn.Module):
    """x [N, in_channels, 4, 4], and the mapped label [N, mapped] or None → logits [N]."""

    def __init__(
        self, in_channels: int, mapped: int, clamp: float | None, mbstd_group_size: int = 4,
        mbstd_num_channels: int = 1, **others: Any,
    ):  # fmt: skip
        super().__init__()
        check_options(
            "StyleGAN2's discriminator",
            {"mbstd_num_channels": mbstd_num_channels, **others},
            {"mbstd_num_channels": [0, 1], "activation": ["lrelu"]},
        )
        if mbstd_group_size < 1:
            raise UsageError(f"mbstd_group_size: expected a number >= 1, got {mbstd_group_size}")
        self.mapped = mapped
        self.mbstd = MinibatchStdDev(mbstd_group_size) if mbstd_num_channels else None
        self.conv = Conv(in_channels + mbstd_num_channels, in_channels, 3, clamp=clamp)
        self.fc = Dense(in_channels * 16, in_channels, act="leaky_relu")
        self.out = Dense(in_channels, mapped or 1)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        x = x.to(self.conv.weight.dtype)
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        return x[:, 0] if label is None else (x * label).sum(1) / sqrt(self.mapped)
