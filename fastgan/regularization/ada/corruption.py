"""Corruptions of images: filtering of frequency bands, additive noise and cutout (arXiv:2006.06676, appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.regularization.ada.draws import chosen, normal
from fastgan.regularization.ada.wavelets import BANDS, bands

#: The expected power of natural images in the bands, from low to high frequencies.
POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


def band_gains(u: Tensor, p: Tensor | None) -> Tensor:
    """The amplification of each band, [N, BANDS]. u: uniform, [N, 2 · BANDS].

    With probability p a band is amplified by 2^N(0, 1), and all are then scaled so that the expected power stays.
    """
    power = torch.tensor(POWER, dtype=u.dtype, device=u.device)
    gains = torch.ones(len(u), BANDS, dtype=u.dtype, device=u.device)
    for i in range(BANDS):
        one = torch.arange(BANDS, device=u.device) == i
        factor = torch.where(chosen(u[:, i], p), torch.exp2(normal(u[:, BANDS + i])), torch.ones_like(u[:, i]))
        own = torch.where(one, factor[:, None], torch.ones_like(gains))
        gains = gains * own / (power * own.square()).sum(1, keepdim=True).sqrt()
    return gains


def filtered(images: Tensor, gains: Tensor) -> Tensor:
    """Images [N, C, H, W] whose bands are amplified in both directions by gains [N, BANDS]."""
    gains = gains.to(images.dtype)
    down, along = (
        torch.einsum("nb,bij->nij", gains, bands(side, images.device, images.dtype))[:, None]
        for side in images.shape[2:]
    )
    return down @ images @ along.transpose(2, 3)


def noise_strength(u: Tensor, p: Tensor | None) -> Tensor:
    """The standard deviation of the noise on each image, [N]: |N(0, 0.1²)| with probability p. u: uniform, [N, 2]."""
    return torch.where(chosen(u[:, 0], p), 0.1 * normal(u[:, 1]).abs(), torch.zeros_like(u[:, 0]))


def cut(images: Tensor, u: Tensor, p: Tensor | None) -> Tensor:
    """Zero in a rectangle of half the height and width around a uniform center, with probability p. u: [N, 3]."""
    hidden = []
    for axis, column in ((2, 1), (3, 2)):
        side = images.shape[axis]
        center = (torch.arange(side, dtype=u.dtype, device=u.device) + 0.5) / side
        hidden.append((center - u[:, column : column + 1]).abs() < 0.25)
    rows, columns = hidden
    both = rows[:, :, None] & columns[:, None, :] & chosen(u[:, 0], p)[:, None, None]
    return images.masked_fill(both[:, None], 0.0)
