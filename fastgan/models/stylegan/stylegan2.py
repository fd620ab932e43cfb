"""StyleGAN2's generator (Karras et al. 2020, arXiv:1912.04958), with the labels of arXiv:2006.06676.

A constant of 4×4 is convolved and upsampled; w scales the input channels of every convolution ("modulation"), and the
outputs are divided by the standard deviation that this gives them ("demodulation"). Noise is added after every
convolution. Each resolution has a layer to colors, and the images of all resolutions are upsampled and added ("skip").

State dicts have the keys of the public checkpoints (stylegan2-ada-pytorch and its successors).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.labels import Labels
from fastgan.models.stylegan.discriminator import Discriminator
from fastgan.models.stylegan.generator import NOISE_MODES, StyleGenerator
from fastgan.models.stylegan.layers import GAIN, SLOPE, Dense, check_options, full_precision, low_pass, resolutions
from fastgan.ops import bias_act, modulated_conv2d, modulated_layer, upfirdn2d


class Synthesis(nn.Module):
    """w [N, num_ws, w_dim] → images [N, img_channels, R, R]. The arguments are those of `Generator`."""

    def __init__(
        self, w_dim: int, img_resolution: int, img_channels: int, channel_base: int = 32768, channel_max: int = 512,
        num_fp16_res: int = 4, conv_clamp: float | None = 256, architecture: str = "skip",
        resample_filter: Sequence[float] = (1, 3, 3, 1), use_noise: bool = True, **others: Any,
    ):  # fmt: skip
        super().__init__()
        check_options(
            "StyleGAN2's synthesis network",
            {"architecture": architecture, **others},
            {"architecture": ["skip"], "activation": ["lrelu"], "kernel_size": [3]},
        )
        sides = resolutions(img_resolution)
        #: The least side of feature maps that are computed in half precision under autocast.
        self.half_from = max(img_resolution >> num_fp16_res - 1 if num_fp16_res else 2 * img_resolution, 8)
        inputs = 0
        for side in sides:
            outputs = min(channel_base // side, channel_max)
            if outputs < 1:
                raise UsageError(
                    f"channel_base: expected a number >= img_resolution {img_resolution}, got {channel_base}"
                )
            block = Block(inputs, outputs, w_dim, side, img_channels, resample_filter, conv_clamp, use_noise)
            self.add_module(f"b{side}", block)
            inputs = outputs
        self.sides = sides
        self.num_ws = 2 * len(sides)  # of 2 · len(sides) − 1 convolutions, and of the last layer to colors

    def forward(self, w: Tensor, noise_mode: str | None = None, noise: Sequence[Tensor] | None = None) -> Tensor:
        """noise_mode: "random" (normal noise from PyTorch's global random numbers), "const" (the buffers `noise_const`)
        or "none"; None means "random" in training mode and "const" in evaluation mode.
        noise: the maps [N or 1, 1, R, R] of the convolutions in their order, in place of those of noise_mode."""
        mode = noise_mode or ("random" if self.training else "const")
        if mode not in NOISE_MODES:
            raise UsageError(f"noise_mode: expected one of {', '.join(NOISE_MODES)}, got {noise_mode!r}")
        if w.dim() != 3 or w.shape[1] != self.num_ws:
            raise UsageError(f"w: expected [N, {self.num_ws}, w_dim], got {list(w.shape)}")
        if noise is not None and len(noise) != self.num_ws - 1:
            raise UsageError(f"noise: expected {self.num_ws - 1} maps, one for each convolution, got {len(noise)}")
        rows = w.unbind(1)
        x: Tensor | None = None
        image: Any = None
        for i, side in enumerate(self.sides):
            # A block's layer to colors shares its row with the first convolution of the next block.
            first = max(2 * i - 1, 0)
            block = self.get_submodule(f"b{side}")
            maps = mode if noise is None else noise[first : 2 * i + 1]
            if side < self.half_from:
                with full_precision(w):
                    x, image = block(x, image, rows[first : 2 * i + 2], maps)
            else:
                x, image = block(x, image, rows[first : 2 * i + 2], maps)
        return image.to(w.dtype)


class Generator(StyleGenerator):
    """StyleGAN2's generator, see `StyleGenerator`.

    img_resolution: a power of two from 4. Among synthesis_kwargs: channel_base, channel_max: feature maps of r×r pixels
    have min(channel_base // r, channel_max) channels. num_fp16_res: under autocast that many of the highest resolutions
    are computed in its dtype, the others in float32. conv_clamp: limit of activations, or None. resample_filter: taps
    of the low-pass filter. use_noise: whether layers add noise.
    """

    synthesis_class = Synthesis


class Block(nn.Module):
    """The layers of one resolution: features and image of half the side → features and image."""

    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, side: int, img_channels: int,
        filter: Sequence[float], clamp: float | None, use_noise: bool,
    ):  # fmt: skip
        super().__init__()
        self.register_buffer("resample_filter", low_pass(filter))

        def layer(inputs: int, up: bool) -> Layer:
            return Layer(inputs, out_channels, w_dim, side, up=up, filter=filter, clamp=clamp, use_noise=use_noise)

        if in_channels:
            self.conv0 = layer(in_channels, up=True)
        else:
            self.const = nn.Parameter(torch.randn(out_channels, side, side))
        self.conv1 = layer(out_channels, up=False)
        self.torgb = ToColors(out_channels, img_channels, w_dim, clamp=clamp)

    def forward(
        self, x: Tensor | None, image: Tensor | None, rows: Sequence[Tensor], noise: str | Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """rows: w [N, w_dim] of each layer. noise: its mode, or a map for each convolution. Returns x
        [N, out_channels, R, R] and the image [N, img_channels, R, R]."""
        *convs, of_colors = rows
        first, last = (noise, noise) if isinstance(noise, str) else (noise[0], noise[-1])
        x = self.const[None].expand(of_colors.shape[0], -1, -1, -1) if x is None else self.conv0(x, convs[0], first)
        x = self.conv1(x, convs[-1], last)
        colors = self.torgb(x, of_colors)
        if image is not None:
            taps = self.resample_filter.shape[-1]
            padding = ((taps + 1) // 2, (taps - 2) // 2) * 2
            image = upfirdn2d(image, self.resample_filter, up=2, padding=padding, gain=4.0)
        return x, colors if image is None else image + colors


class Layer(nn.Module):
    """Modulated 3×3 convolution, demodulation, noise, bias, leaky ReLU: x [N, I, H, W] and w → [N, O, R, R].

    up: H and W are doubled. clamp: of activations, or None.
    """

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, side: int, *, up: bool, filter: Sequence[float],
        clamp: float | None, use_noise: bool,
    ):  # fmt: skip
        super().__init__()
        self.up, self.side, self.clamp, self.use_noise = up, side, clamp, use_noise
        self.affine = Dense(w_dim, in_channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", low_pass(filter))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(side, side))
            self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, w: Tensor, noise: str | Tensor) -> Tensor:
        """noise: a mode, see `Synthesis.forward`, or a map [N or 1, 1, R, R]."""
        added = None
        if self.use_noise and not (isinstance(noise, str) and noise == "none"):
            added = self.noise_const[None, None]
            if isinstance(noise, Tensor):
                added = noise.to(added.dtype)
            elif noise == "random":
                added = torch.randn(x.shape[0], 1, self.side, self.side, dtype=added.dtype, device=x.device)
            added = added * self.noise_strength
        return modulated_layer(
            x, self.weight, self.affine(w), added, self.bias, up=self.up, padding=1,
            filter=self.resample_filter if self.up else None, alpha=SLOPE, gain=GAIN, clamp=self.clamp,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, up={self.up}"


class ToColors(nn.Module):
    """Modulated 1×1 convolution without demodulation, and bias: x [N, I, H, W] and w → [N, img_channels, H, W]."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, *, clamp: float | None):
        super().__init__()
        self.clamp, self.scale = clamp, 1 / sqrt(in_channels)
        self.affine = Dense(w_dim, in_channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated_conv2d(x, self.weight, self.affine(w) * self.scale, demodulate=False)
        return bias_act(x, self.bias, "linear", clamp=self.clamp)


def build(
    resolution: int, channels: int, latent: int, width: int, classes: int, d_norm: str, *,
    channel_base: int | None = None, mapping_layers: int = 8, num_fp16_res: int = 4, conv_clamp: float | None = 256.0,
    group: int = 4, condition: str | None = None,
) -> tuple[Generator, Discriminator]:  # fmt: skip
    """StyleGAN2's generator and discriminator.

    width: channels at low resolutions (channel_max, 512 in the paper); w has the size of z. channel_base: None means
    64 · width, as in the paper. mapping_layers: of the generator's mapping network. num_fp16_res, conv_clamp: see
    `Generator`. group: samples of the minibatch standard deviation. condition: "projection", the only one supported: an
    embedding of the label concatenated to z, and a projection in the discriminator. Raises UsageError for unsupported
    values.
    """
    if d_norm != "none":
        raise UsageError(
            f"d_norm: stylegan2 has equalized learning rates and supports no norm, got {d_norm!r}; use none"
        )
    Labels.create("stylegan2", classes, condition, ("projection",))
    sizes: dict[str, Any] = {
        "channel_base": 64 * width if channel_base is None else channel_base,
        "channel_max": width,
        "num_fp16_res": num_fp16_res,
        "conv_clamp": conv_clamp,
    }
    for name, value in (("mapping_layers", mapping_layers), ("group", group)):
        if value < 1:
            raise UsageError(f"{name}: expected a number >= 1, got {value}")
    generator = Generator(
        latent, classes, latent, resolution, channels, mapping_kwargs={"num_layers": mapping_layers}, **sizes
    )
    epilogue = {"mbstd_group_size": group}
    return generator, Discriminator(classes, resolution, channels, **sizes, epilogue_kwargs=epilogue)
