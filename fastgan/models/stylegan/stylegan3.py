"""StyleGAN3's generator (Karras et al. 2021, arXiv:2106.12423), configurations T and R.

The features of all layers are band-limited signals: Fourier features in place of a constant, low-pass filters around
every nonlinearity, and a margin beyond the image, so that details move with the image (T), and turn with it (R: 1×1
convolutions and radial filters). There is no noise.

State dicts have the keys of the public checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.labels import Labels
from fastgan.models.stylegan.discriminator import Discriminator
from fastgan.models.stylegan.filters import kaiser_low_pass
from fastgan.models.stylegan.generator import NOISE_MODES, StyleGenerator
from fastgan.models.stylegan.layers import GAIN, SLOPE, Dense, check_options, full_precision
from fastgan.nn.moving_averages import MovingAverages
from fastgan.ops import filtered_lrelu, modulated_conv2d

VARIANTS = ("t", "r")


@dataclass(frozen=True)
class Band:
    """The signal between two layers: cutoff frequency and half width of its transition band in cycles per image, side
    of the feature maps in pixels with their margin, samples per image, channels, end of the transition band."""

    cutoff: float
    half_width: float
    size: int
    rate: int
    channels: int
    stopband: float


class Synthesis(nn.Module):
    """w [N, num_ws, w_dim] → images [N, img_channels, R, R].

    channel_base, channel_max: a signal with the cutoff frequency f has min(channel_base / (2 f), channel_max) channels.
    num_layers: without the layer to colors; num_critical: so many at the end have the image's own cutoff. first_cutoff,
    first_stopband: of the input, in cycles per image; last_stopband_rel: of the output, relative to its cutoff.
    margin_size: in pixels. output_scale: of the images. num_fp16_res: under autocast, layers above
    R / 2^num_fp16_res samples per image are computed in its dtype, the others in float32. conv_kernel: 3 or 1.
    filter_size: taps per factor of up- or downsampling. lrelu_upsampling: factor at the nonlinearities. conv_clamp:
    limit of activations or None. magnitude_ema_beta: decay of the moving average of the square of a layer's input, by
    whose root it is divided.
    """

    def __init__(
        self, w_dim: int, img_resolution: int, img_channels: int, channel_base: int = 32768, channel_max: int = 512,
        num_layers: int = 14, num_critical: int = 2, first_cutoff: float = 2, first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3, margin_size: int = 10, output_scale: float = 0.25, num_fp16_res: int = 4,
        conv_kernel: int = 3, filter_size: int = 6, lrelu_upsampling: int = 2, use_radial_filters: bool = False,
        conv_clamp: float | None = 256, magnitude_ema_beta: float = 0.999, **others: Any,
    ):  # fmt: skip
        super().__init__()
        check_options("StyleGAN3's synthesis network", {"conv_kernel": conv_kernel, **others}, {"conv_kernel": [1, 3]})
        if img_resolution < 16:
            raise UsageError(f"resolution: stylegan3 supports any number from 16, got {img_resolution}")
        if not 0 <= num_critical < num_layers:
            raise UsageError(f"num_critical: expected a number from 0 to {num_layers - 1}, got {num_critical}")
        self.num_ws, self.output_scale, self.num_critical = num_layers + 2, output_scale, num_critical
        bands = bands_of(
            img_resolution, num_layers, num_critical, (first_cutoff, first_stopband), last_stopband_rel, margin_size,
            channel_base, channel_max,
        )  # fmt: skip
        self.input = FourierInput(w_dim, bands[0])
        self.layers: list[str] = []
        self.in_half: list[bool] = []
        for i, (inputs, outputs) in enumerate(zip([bands[0], *bands], bands, strict=False)):
            layer = Layer(
                inputs, outputs, w_dim, colors=img_channels if i == num_layers else 0,
                kernel=conv_kernel if i < num_layers else 1, filter_size=filter_size,
                upsampling=lrelu_upsampling if i < num_layers else 1,
                radial=use_radial_filters and i < num_layers - num_critical, clamp=conv_clamp, beta=magnitude_ema_beta,
            )  # fmt: skip
            self.layers.append(f"L{i}_{outputs.size}_{img_channels if i == num_layers else outputs.channels}")
            self.in_half.append(outputs.rate << num_fp16_res > img_resolution)
            self.add_module(self.layers[-1], layer)

    def forward(self, w: Tensor, noise_mode: str | None = None) -> Tensor:
        if noise_mode not in (None, *NOISE_MODES):
            raise UsageError(f"noise_mode: expected one of {', '.join(NOISE_MODES)}, got {noise_mode!r}")
        if w.dim() != 3 or w.shape[1] != self.num_ws:
            raise UsageError(f"w: expected [N, {self.num_ws}, w_dim], got {list(w.shape)}")
        first, *rows = w.unbind(1)
        with full_precision(w):
            x = self.input(first)
        for name, half, row in zip(self.layers, self.in_half, rows, strict=True):
            layer = self.get_submodule(name)
            if half:
                x = layer(x, row)
            else:
                with full_precision(w):
                    x = layer(x, row)
        return x.to(w.dtype) * self.output_scale


def bands_of(
    resolution: int, num_layers: int, num_critical: int, first: tuple[float, float], last_stopband_rel: float,
    margin: int, channel_base: int, channel_max: int,
) -> list[Band]:  # fmt: skip
    """The signals behind num_layers layers and the layer to colors. first: cutoff and stopband of the first one; the
    other arguments are those of `Synthesis`. Raises UsageError where no channel is left."""
    bands = []
    for i in range(num_layers + 1):
        # Cutoff and stopband grow geometrically, until the critically sampled layers have those of the image.
        t = min(i / (num_layers - num_critical), 1.0)
        cutoff = first[0] * (resolution / 2 / first[0]) ** t
        stopband = first[1] * (resolution / 2 * last_stopband_rel / first[1]) ** t
        rate = 1 << math.ceil(math.log2(min(2 * stopband, resolution)))
        channels = round(min(channel_base / 2 / cutoff, channel_max))
        if channels < 1:
            raise UsageError(f"channel_base: expected a number >= img_resolution {resolution}, got {channel_base}")
        size = rate + 2 * margin if i < num_layers - 1 else resolution
        bands.append(Band(cutoff, max(stopband, rate / 2) - cutoff, size, rate, channels, stopband))
    return bands


class Generator3(StyleGenerator):
    """StyleGAN3's generator, see `StyleGenerator`. img_resolution: from 16, of any size."""

    synthesis_class = Synthesis
    mapping_layers = 2


class FourierInput(nn.Module):
    """w [N, w_dim] → [N, C, S, S]: sines of fixed frequencies and phases, turned and shifted by w, then mixed.

    Buffer `transform` [3, 3]: a further rotation and translation of the whole input, the identity unless it is set.
    """

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, w_dim: int, band: Band):
        super().__init__()
        self.band = band
        direction = torch.randn(band.channels, 2)
        radius = direction.square().sum(1, keepdim=True).sqrt()
        # Frequencies are uniform in a disc of radius `cutoff`.
        freqs = direction / (radius * radius.square().exp().pow(0.25)) * band.cutoff
        self.weight = nn.Parameter(torch.randn(band.channels, band.channels))
        self.affine = Dense(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias[0] = 1  # (cos, sin, x, y) of no rotation and no translation
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(band.channels) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        t = self.affine(w)
        cos, sin, shift_x, shift_y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        # transform is applied first, then the inverse translation, then the rotation: x → R (T x − shift).
        turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
        moved = self.transform[None, :2, 2:] - torch.stack([shift_x, shift_y], 1)[:, :, None] * self.transform[2, 2]
        # The last row of transform is (0, 0, 1), so that all of it is a linear map and a shift of positions.
        linear, shift = turn @ self.transform[:2, :2], turn @ moved
        phases = self.phases + (self.freqs @ shift).squeeze(2)  # [N, C]
        freqs = self.freqs @ linear  # [N, C, 2]
        # Frequencies that have left the band, which a transform that scales may cause, are faded out.
        limit = self.band.rate / 2 - self.band.cutoff
        amplitude = (1 - (freqs.norm(dim=2) - self.band.cutoff) / limit).clamp(0, 1)  # [N, C]
        # Positions of pixels, in units of the image's side: 0 is its center.
        size = self.band.size
        at = (torch.arange(size, device=w.device, dtype=w.dtype) + 0.5 - size / 2) / self.band.rate
        angle = freqs[:, :, 0, None, None] * at + freqs[:, :, 1, None, None] * at[:, None] + phases[:, :, None, None]
        x = torch.sin(2 * math.pi * angle) * amplitude[:, :, None, None]
        return F.conv2d(x, (self.weight / math.sqrt(self.band.channels))[:, :, None, None])


class Layer(MovingAverages):
    """Modulated convolution, then bias and leaky ReLU at a higher rate between low-pass filters.

    x [N, I, S, S] and w [N, w_dim] → [N, O, S', S'] at the sampling rate of `outputs`. colors: 0, or the channels of
    the layer to colors, which is linear and not demodulated.
    """

    averages = ("magnitude_ema",)
    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(
        self, inputs: Band, outputs: Band, w_dim: int, *, colors: int, kernel: int, filter_size: int, upsampling: int,
        radial: bool, clamp: float | None, beta: float,
    ):  # fmt: skip
        super().__init__()
        self.clamp, self.beta, self.to_colors, self.kernel = clamp, beta, colors > 0, kernel
        channels = colors or outputs.channels
        self.affine = Dense(w_dim, inputs.channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs.channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        rate = max(inputs.rate, outputs.rate) * upsampling  # at the nonlinearity
        self.up, self.down = rate // inputs.rate, rate // outputs.rate
        taps_up = filter_size * self.up if self.up > 1 and not colors else 1
        taps_down = filter_size * self.down if self.down > 1 and not colors else 1
        up = kaiser_low_pass(taps_up, inputs.cutoff, 2 * inputs.half_width, rate)
        down = kaiser_low_pass(taps_down, outputs.cutoff, 2 * outputs.half_width, rate, radial)
        self.register_buffer("up_filter", up)  # a filter of one tap is None and has no key
        self.register_buffer("down_filter", down)
        # What the convolution and both filters take away, so that the output has outputs.size pixels; the odd pixels of
        # it go to the upper left, where the samples of the input lie between the zeros.
        total = (outputs.size - 1) * self.down + 1 - (inputs.size + kernel - 1) * self.up + taps_up + taps_down - 2
        before = (total + self.up) // 2
        self.padding = (before, total - before, before, total - before)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        input_gain = self.magnitude_ema.rsqrt()
        if self.training and self.moves_averages:
            # After it was used, so that ranks, which exchange it between two steps, compute with the same number.
            with torch.no_grad():
                square = x.detach().to(self.magnitude_ema.dtype).square().mean()
                self.magnitude_ema.lerp_(square, 1 - self.beta)
        styles = self.affine(w)
        if self.to_colors:
            styles = styles / math.sqrt(self.weight.shape[1] * self.kernel**2)
        x = modulated_conv2d(
            x, self.weight, styles, demodulate=not self.to_colors, padding=self.kernel - 1,
            input_gain=input_gain,
        )  # fmt: skip
        gain, slope = (1.0, 1.0) if self.to_colors else (GAIN, SLOPE)
        return filtered_lrelu(
            x, self.bias, self.up_filter, self.down_filter, up=self.up, down=self.down, padding=self.padding,
            gain=gain, slope=slope, clamp=self.clamp,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, up={self.up}, down={self.down}"


def build(
    resolution: int, channels: int, latent: int, width: int, classes: int, d_norm: str, *, variant: str = "t",
    channel_base: int | None = None, num_fp16_res: int = 4, conv_clamp: float | None = 256.0, group: int = 4,
    condition: str | None = None,
) -> tuple[Generator3, Discriminator]:  # fmt: skip
    """StyleGAN3's generator and the discriminator of StyleGAN2.

    variant: "t" (translation), or "r" (translation and rotation), which has twice the channels and 1×1 convolutions.
    width: channels of the discriminator, and of the generator "t", at low resolutions (512 in the paper); w has the
    size of z. channel_base: None means 64 · width. num_fp16_res, conv_clamp: see `Synthesis`. group: samples of the
    minibatch standard deviation. condition: "projection", the only one supported, as in stylegan2. Raises UsageError
    for unsupported values.
    """
    if variant not in VARIANTS:
        raise UsageError(f"variant: stylegan3 supports {' or '.join(VARIANTS)}, got {variant!r}")
    if d_norm != "none":
        raise UsageError(
            f"d_norm: stylegan3 has equalized learning rates and supports no norm, got {d_norm!r}; use none"
        )
    Labels.create("stylegan3", classes, condition, ("projection",))
    if group < 1:
        raise UsageError(f"group: expected a number >= 1, got {group}")
    base = 64 * width if channel_base is None else channel_base
    shared: dict[str, Any] = {"num_fp16_res": num_fp16_res, "conv_clamp": conv_clamp}
    discriminator = Discriminator(
        classes, resolution, channels, channel_base=base, channel_max=width,
        epilogue_kwargs={"mbstd_group_size": group}, **shared,
    )  # fmt: skip
    factor = 2 if variant == "r" else 1
    kernel: dict[str, Any] = {"conv_kernel": 1, "use_radial_filters": True} if variant == "r" else {}
    generator = Generator3(
        latent, classes, latent, resolution, channels, channel_base=factor * base, channel_max=factor * width, **kernel,
        **shared,
    )  # fmt: skip
    return generator, discriminator
