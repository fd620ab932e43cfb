"""Gaussian and Poisson noise, in color or gray, with a strength of its own for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util.random import Random

_LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601


def gaussian_noise(images: Tensor, sigma: Tensor, gray: Tensor, random: Random) -> Tensor:
    """Images [N, C, H, W] with Gaussian noise, clamped to [0, 1].

    sigma: standard deviation in gray levels (of 255), [N]. gray: whether the noise is the same in all channels, bool
    [N].
    """
    noise = random.normal(*images.shape)
    return _added(images, noise, sigma / 255, gray)


def poisson_noise(images: Tensor, scale: Tensor, gray: Tensor, random: Random) -> Tensor:
    """Images [N, C, H, W] with shot noise, clamped to [0, 1].

    The image, rounded to 8 bits, is taken as counts of photons: white is as many as the image has different values,
    rounded up to a power of 2. scale: the noise is multiplied by it, [N]. gray: whether it is that of the gray image
    and the same in all channels, bool [N].
    """
    values = (images * 255).round().clamp(0, 255)
    luma = _luma(images)
    values = torch.where(gray.view(-1, 1, 1, 1), (luma * 255).round().clamp(0, 255), values)
    present = torch.zeros(len(images), 256, dtype=images.dtype, device=images.device)
    present.scatter_(1, values.flatten(1).long(), 1.0)
    photons = torch.exp2(present.sum(1).log2().ceil()).view(-1, 1, 1, 1)
    rates = values * (photons / 255)
    noise = (random.poisson(rates) - rates) / photons
    return _added(images, noise, scale, gray)


def _added(images: Tensor, noise: Tensor, strength: Tensor, gray: Tensor) -> Tensor:
    noise = torch.where(gray.view(-1, 1, 1, 1), noise[:, :1], noise)
    return torch.addcmul(images, noise, strength.view(-1, 1, 1, 1)).clamp(0, 1)


def _luma(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    red, green, blue = _LUMA
    return red * images[:, :1] + green * images[:, 1:2] + blue * images[:, 2:]
