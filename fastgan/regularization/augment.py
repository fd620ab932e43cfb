"""Differentiable augmentation: what is done to all images, real and fake, before the discriminator sees them.

DiffAugment, Zhao et al. 2020 (arXiv:2006.10738), on images in [-1, 1]. Every function here maps images [N, C, H, W] and
uniform random numbers in [0, 1), [N, k], to images, and is differentiable in the images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.regularization.ada.pipeline import PIPELINES

#: Kinds in the order in which they are applied, and the columns of the random numbers that each takes.
KINDS = {"color": slice(0, 3), "translation": slice(3, 5), "cutout": slice(5, 7)}
#: Numbers that an image takes: those, and one for each kind that decides whether it is applied.
NUMBERS = 7 + len(KINDS)


def kinds_of(names: str) -> list[str]:
    """The kinds, of this file and of adaptive augmentation, that names joined by "+" stand for; none for "none"."""
    return [kind for name in names.split("+") for kind in PIPELINES.get(name, (name,)) if name != "none"]


def augment(images: Tensor, kinds: str, u: Tensor, p: Tensor | None = None) -> Tensor:
    """Images [N, C, H, W] augmented in the kinds named, joined by "+". u: [N, NUMBERS].

    p: the probability of each kind for each image, a scalar; left out, all are applied to all.
    """
    functions = {"color": color, "translation": translation, "cutout": cutout}
    for i, (kind, own) in enumerate(KINDS.items()):
        if kind in kinds.split("+"):
            changed = functions[kind](images, u[:, own])
            chosen = None if p is None else (u[:, 7 + i] < p).view(-1, 1, 1, 1)
            images = changed if chosen is None else torch.where(chosen, changed, images)
    return images


def color(images: Tensor, u: Tensor) -> Tensor:
    """Brightness shifted by −0.5 to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5. u: [N, 3]."""
    brightness, saturation, contrast = u.to(images.dtype).view(-1, 3, 1, 1, 1).unbind(1)
    images = images + (brightness - 0.5)
    gray = images.mean(1, keepdim=True)
    images = (images - gray) * (2 * saturation) + gray
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def translation(images: Tensor, u: Tensor) -> Tensor:
    """Shifted by up to an eighth of the height and the width, with zeros where nothing comes from. u: [N, 2]."""
    for axis in (2, 3):
        size = images.shape[axis]
        most = (size + 4) // 8
        shift = (u[:, axis - 2] * (2 * most + 1)).long() - most
        source = torch.arange(size, device=images.device) - shift[:, None]  # [N, size]
        shape = [len(images), 1, 1, 1]
        shape[axis] = size
        inside = ((source >= 0) & (source < size)).view(shape)
        places = source.clamp(0, size - 1).view(shape).expand(images.shape)
        images = torch.where(inside, images.gather(axis, places), 0.0)
    return images


def cutout(images: Tensor, u: Tensor) -> Tensor:
    """Zero in a rectangle of half the height and half the width, which may reach over the border. u: [N, 2]."""
    hidden = []
    for axis in (2, 3):
        size = images.shape[axis]
        half = (size + 1) // 2
        first = (u[:, axis - 2] * (size + 1 - half % 2)).long() - half // 2
        place = torch.arange(size, device=images.device)[None] - first[:, None]
        hidden.append((place >= 0) & (place < half))
    rows, columns = hidden
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
