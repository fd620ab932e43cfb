"""`Degradation`: what makes low-resolution images of sharp ones, in one of three ways."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from fastgan._util.random import Random
from fastgan.degradation.blur import random_kernels, random_sinc
from fastgan.degradation.compression import jpeg
from fastgan.degradation.filters import filter_each
from fastgan.degradation.noise import gaussian_noise, poisson_noise
from fastgan.degradation.resizing import downscale_bicubic, resize
from fastgan.degradation.settings import Range, Settings, read_settings
from fastgan.errors import UsageError

KINDS = ("bicubic", "first-order", "second-order")


class Degradation:
    """`apply` makes images `scale` times as small.

    kind: "bicubic", MATLAB's downscaling, which draws nothing (SRGAN, ESRGAN); "first-order", blur, resizing, noise
    and JPEG (equation 1 of Real-ESRGAN, arXiv:2107.10833); "second-order", two such passes and a final low-pass filter
    before or after the last JPEG (section 3 of the paper); or the path of a file of settings, with which it is
    second-order: see `read_settings`. settings: of the random kinds.

    What is resized how, Gaussian or Poisson noise, whether the second pass blurs, and the order at the end are chosen
    for the whole batch, since its images must stay of one size; everything else for each image. `PairPool` mixes
    batches. Raises UsageError for another kind.
    """

    def __init__(self, scale: int, kind: str = "second-order", settings: Settings | None = None):
        if scale < 1:
            raise UsageError(f"scale: expected a number >= 1, got {scale}")
        if settings is None and kind.endswith((".yaml", ".yml", ".toml", ".json")):
            kind, settings = "second-order", read_settings(kind)
        if kind not in KINDS:
            raise UsageError(f"degradation: expected {', '.join(KINDS)} or a .yaml file of settings, got {kind!r}")
        self.scale, self.kind, self.settings = scale, kind, settings or Settings()

    @torch.no_grad()
    def apply(self, images: Tensor, random: Random) -> Tensor:
        """Images [N, C, H, W] in [0, 1] to [N, C, H / scale, W / scale], multiples of 1/255 in [0, 1].

        The same images and the same state of `random` give the same result. Raises UsageError where `scale` does not
        divide the size, and for a number of channels other than 1 and 3.
        """
        height, width = images.shape[2:]
        if images.shape[1] not in (1, 3):
            raise UsageError(f"images: expected 1 or 3 channels, got {images.shape[1]}")
        if height % self.scale or width % self.scale:
            raise UsageError(f"images: expected a size that {self.scale} divides, got {height}×{width}")
        images = images.float()
        if self.kind == "bicubic":
            low = downscale_bicubic(images, self.scale)
        else:
            size = height // self.scale, width // self.scale
            low = (self._first_order if self.kind == "first-order" else self._second_order)(images, size, random)
        return (low * 255).round_().clamp_(0, 255).div_(255)

    def _first_order(self, images: Tensor, size: tuple[int, int], random: Random) -> Tensor:
        options = self.settings
        images = _blurred(images, options, "", random)
        images = resize(images, size, _chosen(options.resize_modes, random))
        return _compressed(_noisy(images, options, "", random), options.jpeg_range, random)

    def _second_order(self, images: Tensor, size: tuple[int, int], random: Random) -> Tensor:
        options, (height, width) = self.settings, images.shape[2:]
        images = _blurred(images, options, "", random)
        images = _resized(images, (height, width), options.resize_prob, options.resize_range, options, random)
        images = _compressed(_noisy(images, options, "", random), options.jpeg_range, random)
        if random.number() < options.second_blur_prob:
            images = _blurred(images, options, "2", random)
        images = _resized(images, size, options.resize_prob2, options.resize_range2, options, random)
        images = _noisy(images, options, "2", random)
        if random.number() < 0.5:
            images = self._filtered(images, size, random)
            return _compressed(images, options.jpeg_range2, random)
        return self._filtered(_compressed(images, options.jpeg_range2, random), size, random)

    def _filtered(self, images: Tensor, size: tuple[int, int], random: Random) -> Tensor:
        """The last resizing, and the low-pass filter that makes ringing."""
        options = self.settings
        images = resize(images, size, _chosen(options.resize_modes, random))
        return filter_each(images, random_sinc(random, len(images), options.blur_kernel_size2, options.final_sinc_prob))


def _blurred(images: Tensor, options: Settings, suffix: str, random: Random) -> Tensor:
    def of(name: str) -> Any:
        return getattr(options, name + suffix)

    kernels = random_kernels(
        random,
        len(images),
        of("blur_kernel_size"),
        of("kernel_prob"),
        of("sinc_prob"),
        of("blur_sigma"),
        of("betag_range"),
        of("betap_range"),
    )
    return filter_each(images, kernels)


def _resized(
    images: Tensor, base: tuple[int, int], prob: Sequence[float], limits: Range, options: Settings, random: Random
) -> Tensor:
    """Resized to `base` times a random scale. prob: weights of a scale above 1, one below 1, and 1."""
    drawn, u = random.number() * sum(prob), random.number()
    up, down, _ = accumulate(prob)
    low, high = limits
    scale = 1 + (high - 1) * u if drawn < up else low + (1 - low) * u if drawn < down else 1.0
    size = tuple(max(1, int(side * scale)) for side in base)
    return resize(images, size, _chosen(options.resize_modes, random))  # type: ignore[arg-type]


def _noisy(images: Tensor, options: Settings, suffix: str, random: Random) -> Tensor:
    def of(name: str) -> Any:
        return getattr(options, name + suffix)

    u = random.uniform(len(images), 2)
    gray = u[:, 1] < of("gray_noise_prob")
    if random.number() < of("gaussian_noise_prob"):
        low, high = of("noise_range")
        return gaussian_noise(images, low + (high - low) * u[:, 0], gray, random)
    low, high = of("poisson_scale_range")
    return poisson_noise(images, low + (high - low) * u[:, 0], gray, random)


def _compressed(images: Tensor, limits: Range, random: Random) -> Tensor:
    low, high = limits
    return jpeg(images, low + (high - low) * random.uniform(len(images)))


def _chosen(names: Sequence[str], random: Random) -> str:
    return names[int(random.number() * len(names))]
