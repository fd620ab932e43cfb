"""StyleGAN2 in plain PyTorch, the way its public code runs: a convolution kernel for each sample (grouped convolution),
zeros between samples, depthwise filters. From the formulas of Karras et al. 2020 (arXiv:1912.04958).

Both networks read the parameters of fastgan's: stylegan_steps.py compares the same functions of the same weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = 2**0.5


class _Reader(nn.Module):
    """Parameters and buffers of a network of fastgan by name."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.tensors: dict[str, Tensor] = dict(network.named_parameters()) | dict(network.named_buffers())

    def dense(self, name: str, x: Tensor, multiplier: float = 1.0, act: bool = False) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        x = F.linear(x, weight * (multiplier / x.shape[1] ** 0.5), bias * multiplier)
        return F.leaky_relu(x, 0.2) * GAIN if act else x


def filtered(x: Tensor, taps: Tensor, padding: tuple[int, int, int, int], gain: float = 1.0) -> Tensor:
    """Padding, then one filter for all channels (symmetric, so that it needs no flip)."""
    kernel = (taps * gain).to(x.dtype).expand(x.shape[1], 1, *taps.shape)
    return F.conv2d(F.pad(x, padding), kernel, groups=x.shape[1])


def with_zeros(x: Tensor) -> Tensor:
    """A zero after each sample, in both directions."""
    n, c, h, w = x.shape
    return F.pad(x.reshape(n, c, h, 1, w, 1), (0, 1, 0, 0, 0, 1)).reshape(n, c, 2 * h, 2 * w)


class PlainGenerator(_Reader):
    """z [N, z_dim] → images, without classes and truncation."""

    def mapping(self, z: Tensor) -> Tensor:
        """w [N, num_ws, w_dim]."""
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        i = 0
        while f"mapping.fc{i}.weight" in self.tensors:
            x, i = self.dense(f"mapping.fc{i}", x, 0.01, act=True), i + 1
        return x[:, None].expand(-1, int(self.network.num_ws), -1)  # type: ignore[arg-type]

    def synthesis(self, w: Tensor) -> Tensor:
        x: Tensor | None = None
        image: Tensor | None = None
        row, side = 0, 4
        while f"synthesis.b{side}.torgb.weight" in self.tensors:
            block = f"synthesis.b{side}"
            if x is None:
                x = self.tensors[f"{block}.const"].expand(len(w), -1, -1, -1)
            else:
                x, row = self._layer(f"{block}.conv0", x, w[:, row], up=True), row + 1
            x, row = self._layer(f"{block}.conv1", x, w[:, row]), row + 1
            colors = self._modulated(f"{block}.torgb", x, w[:, row], demodulate=False)
            colors = colors + self.tensors[f"{block}.torgb.bias"][:, None, None]
            if image is not None:
                taps = self.tensors[f"{block}.resample_filter"]
                colors = colors + filtered(with_zeros(image), taps, (2, 1, 2, 1), 4.0)
            image, side = colors, 2 * side
        assert image is not None
        return image

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesis(self.mapping(z))

    def _layer(self, name: str, x: Tensor, w: Tensor, up: bool = False) -> Tensor:
        x = self._modulated(name, x, w, up)
        x = x + self.tensors[f"{name}.noise_const"] * self.tensors[f"{name}.noise_strength"]
        return F.leaky_relu(x + self.tensors[f"{name}.bias"][:, None, None], 0.2) * GAIN

    def _modulated(self, name: str, x: Tensor, w: Tensor, up: bool = False, demodulate: bool = True) -> Tensor:
        weight, style = self.tensors[f"{name}.weight"], self.dense(f"{name}.affine", w)
        outputs, inputs, side, _ = weight.shape
        own = weight * (style if demodulate else style / inputs**0.5)[:, None, :, None, None]
        if demodulate:
            own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        n, _, height, width = x.shape
        x = x.reshape(1, n * inputs, height, width)
        if up:
            own = own.transpose(1, 2).reshape(n * inputs, outputs, side, side)
            x = F.conv_transpose2d(x, own, stride=2, groups=n).reshape(n, outputs, 2 * height + 1, 2 * width + 1)
            return filtered(x, self.tensors[f"{name}.resample_filter"], (1, 1, 1, 1), 4.0)
        x = F.conv2d(x, own.reshape(n * outputs, inputs, side, side), padding=side // 2, groups=n)
        return x.reshape(n, outputs, height, width)


class PlainDiscriminator(_Reader):
    """Images → logits [N], without classes."""

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        x = self._conv(f"b{side}.fromrgb", x)
        while side > 4:
            inner = self._conv(f"b{side}.conv1", self._conv(f"b{side}.conv0", x), down=True, gain=0.5**0.5)
            x = inner + self._conv(f"b{side}.skip", x, act=False, down=True, gain=0.5**0.5)
            side //= 2
        group = min(4, len(x))
        spread = (x.reshape(group, -1, *x.shape[1:]).var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        x = torch.cat([x, spread.repeat(group)[:, None, None, None].expand(-1, 1, 4, 4)], 1)
        x = self.dense("b4.fc", self._conv("b4.conv", x).flatten(1), act=True)
        return self.dense("b4.out", x).squeeze(1)

    def _conv(self, name: str, x: Tensor, act: bool = True, down: bool = False, gain: float = 1.0) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        weight = weight / weight[0].numel() ** 0.5
        pad = weight.shape[-1] // 2
        if down:
            x = F.conv2d(filtered(x, self.tensors[f"{name}.resample_filter"], (pad + 1,) * 4), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=pad)
        return F.leaky_relu(x + self.tensors[f"{name}.bias"][:, None, None], 0.2) * (GAIN * gain) if act else x * gain
