"""Random crops and flips of batches, each image its own, in one gather on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util.random import Random


def cropped(images: Tensor, size: tuple[int, int], random: Random | None, flip: bool = True) -> Tensor:
    """Crops [N, C, *size] of images [N, C, H, W], at random places and mirrored with probability 0.5.

    random: None takes the center and mirrors none. flip: False mirrors none. Raises ValueError where an image is
    smaller than the crop.
    """
    (n, channels, *shape), device = images.shape, images.device
    spare = [have - want for have, want in zip(shape, size, strict=True)]
    if min(spare) < 0:
        raise ValueError(f"size: expected at most the images' {shape}, got {[*size]}")
    if random is None and not any(spare):
        return images
    places = torch.full((n, 3), 0.5, device=device) if random is None else random.uniform(n, 3)
    top, left = ((places[:, i] * (spare[i] + 1)).long().clamp_(max=spare[i]) for i in (0, 1))
    rows = top[:, None] + torch.arange(size[0], device=device)
    columns = left[:, None] + torch.arange(size[1], device=device)
    if flip:
        columns = torch.where(places[:, 2:] < 0.5, columns.flip(1), columns)
    each, channel = torch.arange(n, device=device), torch.arange(channels, device=device)
    return images[each[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
