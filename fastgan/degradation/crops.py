"""Random crops, flips and rotations by 90°, the same for images of several resolutions, in one gather each."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util.random import Random
from fastgan.errors import UsageError


def random_crop(
    batch: dict[str, Tensor], size: int, random: Random | None, *, flip: bool = True, rotate: bool = True
) -> dict[str, Tensor]:
    """Square crops of a batch, each at its own place, flipped and rotated by a multiple of 90°.

    batch: images [N, C, H, W] by name, such as "source" and "target"; the sizes of all are whole multiples of the
    smallest one's. size: side of the crop of the largest images in pixels. random: None for the center, unturned.
    flip, rotate: whether images are mirrored and turned, each by chance.
    Returns images [N, C, size, size], those of lower resolution smaller in proportion. Raises UsageError where the
    images are smaller, or the sizes do not fit each other.
    """
    largest = max(batch.values(), key=lambda images: images.shape[-1])
    smallest = min(batch.values(), key=lambda images: images.shape[-1])
    n, _, height, width = smallest.shape
    scale = largest.shape[3] // width
    if min(largest.shape[2:]) < size:
        raise UsageError(f"size: expected at most the size of the images, {_shown(largest)}, got {size}")
    if size % scale:
        raise UsageError(f"size: expected a multiple of {scale}, as the images are {scale} times as large, got {size}")
    side = size // scale
    device = smallest.device
    if random is None:
        top, left = (torch.full((n,), (length - side) // 2, device=device) for length in (height, width))
        turn = torch.zeros(3, n, dtype=torch.bool, device=device)
    else:
        u = random.uniform(n, 5)
        # float32 below 1 times a whole number may round up to it.
        top, left = (
            (u[:, i] * (length - side + 1)).long().clamp(max=length - side) for i, length in enumerate((height, width))
        )
        turn = torch.stack([(u[:, 2] < 0.5) & flip, (u[:, 3] < 0.5) & rotate, (u[:, 4] < 0.5) & rotate])
    cropped = {}
    for name, images in batch.items():
        factor, rest = divmod(images.shape[3], width)
        if rest or images.shape[2] != factor * height or scale % factor:
            raise UsageError(f"batch: expected sizes that are multiples of {_shown(smallest)}, got {_shown(images)}")
        cropped[name] = _gathered(images, top * factor, left * factor, side * factor, turn)
    return cropped


def _gathered(images: Tensor, top: Tensor, left: Tensor, side: int, turn: Tensor) -> Tensor:
    """turn: mirrored horizontally, mirrored vertically, and transposed (in this order of reading), bool [3, N]."""
    along = torch.arange(side, device=images.device)
    mirror_x, mirror_y, transpose = turn[:, :, None]
    rows = top[:, None] + torch.where(mirror_y, side - 1 - along, along)
    columns = left[:, None] + torch.where(mirror_x, side - 1 - along, along)
    width = images.shape[3]
    plain = rows[:, :, None] * width + columns[:, None, :]
    index = torch.where(transpose[:, :, None], plain.transpose(1, 2), plain)
    flat = images.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    return flat.view(*images.shape[:2], side, side)


def _shown(images: Tensor) -> str:
    return f"{images.shape[2]}×{images.shape[3]}"
