"""The pipeline of adaptive discriminator augmentation, in the order of the paper (arXiv:2006.06676, appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.regularization.ada.color import color_maps, recolored
from fastgan.regularization.ada.corruption import band_gains, cut, filtered, noise_strength
from fastgan.regularization.ada.geometry import blit_maps, geometric_maps, warped

#: Kinds in the order in which they are applied, and the columns of the uniform random numbers that each takes.
KINDS = {
    "blit": slice(0, 7), "geometric": slice(7, 18), "ada-color": slice(18, 28), "filter": slice(28, 36),
    "noise": slice(36, 38), "ada-cutout": slice(38, 41),
}  # fmt: skip
NUMBERS = 41
#: Names of several kinds: what the paper recommends, and all of them.
PIPELINES = {"ada": ("blit", "geometric", "ada-color"), "ada-all": tuple(KINDS)}


def ada(images: Tensor, kinds: list[str], u: Tensor, field: Tensor | None = None, p: Tensor | None = None) -> Tensor:
    """Images [N, C, H, W], C 1 or 3, augmented in these kinds; at p = 0 they are exactly what they were.

    u: uniform in [0, 1), [N, NUMBERS]. field: N(0, 1) like the images, for "noise". p: the probability of each
    transformation for each image, a scalar; left out, all are applied to all. Computed in float32 at least;
    differentiable in the images to every order.
    """
    dtype = images.dtype
    images = images if dtype == torch.float64 else images.float()
    with torch.autocast(images.device.type, enabled=False):
        images = _placed(images, kinds, u, p)
        if "ada-color" in kinds:
            maps = color_maps(u[:, KINDS["ada-color"]], p)
            images = _unless(maps, torch.eye(3, 4, device=u.device), images, recolored(images, maps))
        if "filter" in kinds:
            gains = band_gains(u[:, KINDS["filter"]], p)
            images = _unless(gains, torch.ones_like(gains), images, filtered(images, gains))
        if "noise" in kinds:
            assert field is not None
            images = images + noise_strength(u[:, KINDS["noise"]], p).view(-1, 1, 1, 1) * field
        if "ada-cutout" in kinds:
            images = cut(images, u[:, KINDS["ada-cutout"]], p)
    return images.to(dtype)


def _placed(images: Tensor, kinds: list[str], u: Tensor, p: Tensor | None) -> Tensor:
    """Moved by one map, the product of those of both kinds."""
    size = images.shape[2], images.shape[3]
    functions = {"blit": blit_maps, "geometric": geometric_maps}
    found = [functions[kind](u[:, KINDS[kind]], p, size) for kind in functions if kind in kinds]
    if not found:
        return images
    maps = found[0] if len(found) == 1 else found[0] @ found[1]
    return _unless(maps, torch.eye(3, device=u.device), images, warped(images, maps))


def _unless(parameters: Tensor, neutral: Tensor, images: Tensor, changed: Tensor) -> Tensor:
    """Images whose parameters change nothing, as they were; the others changed."""
    same = ((parameters - neutral).abs() < 1e-6).flatten(1).all(1)
    return torch.where(same.view(-1, 1, 1, 1), images, changed)
