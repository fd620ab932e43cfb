"""StyleGAN (Karras et al. 2019, arXiv:1812.04948): w sets mean and deviation of all feature maps, by AdaIN.

A learned constant of 4×4 grows to the image. Behind every convolution come noise with a strength for each channel,
bias, leaky ReLU, and adaptive instance normalization with the style that an affine map makes of w. Both networks can
grow progressively, as ProGAN's (see `fastgan.models.growing`): the smaller images use only the first rows of w.

With labels, an embedding enters the mapping network as in StyleGAN2, and the discriminator's last layer has a row for
each class: the projection of its features on the label (Miyato and Koyama 2018, arXiv:1802.05637).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.growing import Growing, require_stages
from fastgan.models.labels import Labels
from fastgan.models.stylegan.generator import NOISE_MODES, StyleGenerator
from fastgan.models.stylegan.layers import GAIN, Dense, check_condition, condition_of, low_pass
from fastgan.nn import EqualizedConv, EqualizedLinear, MinibatchStdDev
from fastgan.nn.adaptive_instance_norm import adaptive_instance_norm
from fastgan.ops import bias_act, conv2d, conv2d_bias_act, conv_transpose2d, upfirdn2d

BLUR = (1, 2, 1)


class Synthesis(Growing):
    """w [N, num_ws, w_dim] → images [N, img_channels, side, side] at the current stage.

    img_resolution: of the last stage, a power of two from 8. channel_base, channel_max: feature maps of r×r pixels have
    min(channel_base // r, channel_max) channels. resample_filter: taps of the blur behind every upsampling.
    """

    def __init__(
        self, w_dim: int, img_resolution: int, img_channels: int, channel_base: int = 16384, channel_max: int = 512,
        resample_filter: Sequence[float] = BLUR,
    ):  # fmt: skip
        require_stages("stylegan", img_resolution)
        super().__init__(img_resolution)
        channels = channels_of(self.stages, channel_base, channel_max)
        self.num_ws = 2 * self.stages
        self.const = nn.Parameter(torch.ones(channels[0], 4, 4))
        for stage, (inputs, outputs) in enumerate(zip([0, *channels], channels, strict=False)):
            self.add_module(f"b{4 << stage}", Block(inputs, outputs, w_dim, 4 << stage, resample_filter))
        self.to_image = nn.ModuleList(EqualizedConv(size, img_channels, 1, gain=1.0, act="linear") for size in channels)

    def forward(self, w: Tensor, noise_mode: str | None = None) -> Tensor:
        """noise_mode: as in StyleGAN2: "random", "const" or "none"; None means "random" in training mode and "const" in
        evaluation mode."""
        mode = noise_mode or ("random" if self.training else "const")
        if mode not in NOISE_MODES:
            raise UsageError(f"noise_mode: expected one of {', '.join(NOISE_MODES)}, got {noise_mode!r}")
        if w.dim() != 3 or w.shape[1] != self.num_ws:
            raise UsageError(f"w: expected [N, {self.num_ws}, w_dim], got {list(w.shape)}")
        rows = w.unbind(1)
        x = previous = self.const[None].expand(w.shape[0], -1, -1, -1)
        for stage in range(self.stage + 1):
            block = self.get_submodule(f"b{4 << stage}")
            previous, x = x, block(x, rows[2 * stage], rows[2 * stage + 1], mode)
        image = self.to_image[self.stage](x)
        if self.fading:
            image = self.faded(F.interpolate(self.to_image[self.stage - 1](previous), scale_factor=2), image)
        return image.to(w.dtype)


class Generator1(StyleGenerator):
    """StyleGAN's generator, see `StyleGenerator`; `grow(stage, alpha)` sets the size of its images."""

    synthesis: Synthesis
    synthesis_class = Synthesis

    def grow(self, stage: int, alpha: float = 1.0) -> None:
        """As `Growing.grow`."""
        self.synthesis.grow(stage, alpha)

    @property
    def stages(self) -> int:
        """How many sizes there are, from 4×4."""
        return self.synthesis.stages

    @property
    def stage(self) -> int:
        """The current one, from 0."""
        return self.synthesis.stage

    @property
    def alpha(self) -> float:
        """Weight of the newest level, from 0 to 1."""
        return self.synthesis.alpha

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the images at the current stage."""
        return (self.img_channels, self.synthesis.side, self.synthesis.side)


class Block(nn.Module):
    """The two layers of one resolution: x [N, in_channels, R/2, R/2] and two rows of w → [N, out_channels, R, R].

    in_channels: 0 for the first block, whose input is the constant and whose first layer has no convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, side: int, filter: Sequence[float]):
        super().__init__()
        self.conv0 = Layer(in_channels, out_channels, w_dim, side, filter if in_channels else None)
        self.conv1 = Layer(out_channels, out_channels, w_dim, side, None)

    def forward(self, x: Tensor, first: Tensor, second: Tensor, noise_mode: str) -> Tensor:
        return self.conv1(self.conv0(x, first, noise_mode), second, noise_mode)


class Layer(nn.Module):
    """3×3 convolution, noise, bias, leaky ReLU, AdaIN: x [N, I, H, W] and w [N, w_dim] → [N, O, side, side].

    in_channels: 0 for no convolution. filter: taps of the blur of a layer that doubles H and W, or None.
    """

    noise_const: Tensor
    resample_filter: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, side: int, filter: Sequence[float] | None):
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3)) if in_channels else None
        self.scale = GAIN / sqrt(9 * in_channels) if in_channels else 1.0
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(out_channels))
        self.affine = Dense(w_dim, 2 * out_channels)
        self.register_buffer("noise_const", torch.randn(side, side))
        self.register_buffer("resample_filter", None if filter is None else low_pass(filter))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
        if self.weight is not None:
            weight = self.weight * self.scale
            if self.resample_filter is None:
                x = conv2d(x, weight, padding=1)
            else:
                # Pixels are doubled and convolved in one step; the filter follows.
                x = conv_transpose2d(x, doubled(weight.flip(2, 3)).transpose(0, 1), stride=2, padding=1)
                x = upfirdn2d(x, self.resample_filter, padding=_same(self.resample_filter))
        if noise_mode != "none":
            noise = self.noise_const[None, None]
            if noise_mode == "random":
                noise = torch.randn(x.shape[0], 1, self.side, self.side, dtype=noise.dtype, device=x.device)
            x = x + (noise * self.noise_strength[:, None, None]).to(x.dtype)
        x = bias_act(x, self.bias, "leaky_relu")
        scale, shift = self.affine(w).chunk(2, 1)
        return adaptive_instance_norm(x, scale + 1, shift)

    def extra_repr(self) -> str:
        return f"{len(self.bias)} channels of {self.side}×{self.side}"


class Discriminator1(Growing):
    """Images [N, img_channels, side, side] at the current stage, and labels c int64 [N] or rows [N, c_dim] where
    c_dim > 0, → logits [N].

    channel_base, channel_max, resample_filter: as in `Synthesis`. mbstd_group_size: samples in a group of the minibatch
    standard deviation.
    """

    auxiliary = False

    def __init__(
        self, c_dim: int, img_resolution: int, img_channels: int, channel_base: int = 16384, channel_max: int = 512,
        resample_filter: Sequence[float] = BLUR, mbstd_group_size: int = 4,
    ):  # fmt: skip
        require_stages("stylegan", img_resolution)
        super().__init__(img_resolution)
        self.arguments: dict[str, Any] = {
            "c_dim": c_dim, "img_resolution": img_resolution, "img_channels": img_channels,
            "channel_base": channel_base, "channel_max": channel_max, "resample_filter": list(resample_filter),
            "mbstd_group_size": mbstd_group_size,
        }  # fmt: skip
        self.classes = self.c_dim = c_dim
        self.img_channels = img_channels
        channels = channels_of(self.stages, channel_base, channel_max)
        self.from_image = nn.ModuleList(EqualizedConv(img_channels, size, 1) for size in channels)
        for stage, (inside, outside) in enumerate(pairwise(channels), 1):
            self.add_module(f"b{4 << stage}", DiscriminatorBlock(outside, inside, resample_filter))
        self.b4 = nn.Sequential(
            MinibatchStdDev(mbstd_group_size),
            EqualizedConv(channels[0] + 1, channels[0], 3, padding=1),
            nn.Flatten(),
            EqualizedLinear(channels[0] * 16, channels[0]),
        )
        self.out = EqualizedLinear(channels[0], max(c_dim, 1), gain=1.0, act="linear")

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        check_condition(c, self.c_dim)
        expected = (self.img_channels, self.side, self.side)
        if x.shape[1:] != expected:
            raise UsageError(
                f"x: expected images [N, {', '.join(map(str, expected))}], as of the discriminator's current stage,"
                f" got {list(x.shape)}"
            )
        image = x
        x = self.from_image[self.stage](image)
        for stage in range(self.stage, 0, -1):
            x = self.get_submodule(f"b{4 << stage}")(x)
            if self.fading and stage == self.stage:
                x = self.faded(self.from_image[stage - 1](F.avg_pool2d(image, 2)), x)
        logits = self.out(self.b4(x))
        return (logits * condition_of(c, self.c_dim, logits)).sum(1) if self.c_dim else logits[:, 0]


class DiscriminatorBlock(nn.Module):
    """x [N, in_channels, R, R] → [N, out_channels, R/2, R/2]: convolution; blur, convolution and mean of 2×2 pixels."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, filter: Sequence[float]):
        super().__init__()
        self.conv0 = EqualizedConv(in_channels, in_channels, 3, padding=1)
        self.conv1 = EqualizedConv(in_channels, out_channels, 3)
        self.register_buffer("resample_filter", low_pass(filter))

    def forward(self, x: Tensor) -> Tensor:
        x = upfirdn2d(self.conv0(x), self.resample_filter, padding=_same(self.resample_filter))
        weight = doubled(self.conv1.weight * (self.conv1.scale / 4))
        return conv2d_bias_act(x, weight, self.conv1.bias, self.conv1.act, stride=2, padding=1)


def doubled(weight: Tensor) -> Tensor:
    """weight [O, I, 3, 3] → [O, I, 4, 4], the sum of its four shifts by 0 or 1 pixel.

    With stride 2 and padding 1 it is the convolution followed by the sum of 2×2 pixels; transposed and flipped, the
    convolution of an image whose pixels are doubled.
    """
    wide = F.pad(weight, (1, 1, 1, 1))
    return wide[:, :, 1:, 1:] + wide[:, :, 1:, :-1] + wide[:, :, :-1, 1:] + wide[:, :, :-1, :-1]


def _same(filter: Tensor) -> tuple[int, int, int, int]:
    """The padding by which a filter keeps the size."""
    taps = filter.shape[-1]
    return (taps // 2, (taps - 1) // 2) * 2


def channels_of(stages: int, channel_base: int, channel_max: int) -> list[int]:
    """Channels of the feature maps of 4×4, 8×8, ... pixels. Raises UsageError where none is left."""
    last = 4 << stages - 1
    if channel_base < last or channel_max < 1:
        raise UsageError(f"channel_base: expected a number >= img_resolution {last}, got {channel_base}")
    return [min(channel_base // (4 << stage), channel_max) for stage in range(stages)]


def build(
    resolution: int, channels: int, latent: int, width: int, classes: int, d_norm: str, *,
    channel_base: int | None = None, mapping_layers: int = 8, group: int = 4, condition: str | None = None,
) -> tuple[Generator1, Discriminator1]:  # fmt: skip
    """StyleGAN's generator and discriminator at the full resolution.

    width: channels up to 32×32, halved at each level from 64×64 (512 in the paper); w has the size of z. channel_base:
    None means 32 · width, as in the paper. mapping_layers: of the mapping network. group: samples of the minibatch
    standard deviation. condition: "projection", the only one supported. Raises UsageError for unsupported values.
    """
    if d_norm != "none":
        raise UsageError(
            f"d_norm: stylegan has equalized learning rates and supports no norm, got {d_norm!r}; use none"
        )
    Labels.create("stylegan", classes, condition, ("projection",))
    for name, value in (("mapping_layers", mapping_layers), ("group", group)):
        if value < 1:
            raise UsageError(f"{name}: expected a number >= 1, got {value}")
    sizes: dict[str, Any] = {"channel_base": 32 * width if channel_base is None else channel_base, "channel_max": width}
    mapping: dict[str, Any] = {"num_layers": mapping_layers, "w_avg_beta": 0.995}
    generator = Generator1(latent, classes, latent, resolution, channels, mapping_kwargs=mapping, **sizes)
    return generator, Discriminator1(classes, resolution, channels, **sizes, mbstd_group_size=group)
