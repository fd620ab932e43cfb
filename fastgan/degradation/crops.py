"""Random crops, flips and rotations by 90°, the same for images of several resolutions, in one gather each."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util.random import Random
from fastgan.errors import UsageError


def random_crop(
    batch: dict[str, Tensor],
    size: int | tuple[int, int],
    random: Random | None,
    *,
    flip: bool = True,
    rotate: bool = True,
) -> dict[str, Tensor]:
    """Crops of a batch, each at its own place, flipped and rotated by a multiple of 90°.

    batch: images [N, C, H, W] by name, such as "source" and "target"; the sizes of all are whole multiples of the
    smallest one's. size: side of the square crop of the largest images in pixels, or its height and width. random:
    None for the center, unturned. flip: whether half of the images are mirrored horizontally. rotate: whether half are
    mirrored vertically and half transposed, which with flip gives all rotations by 90°; of squares alone.
    Returns images [N, C, size, size], those of lower resolution smaller in proportion. Raises UsageError where the
    images are smaller, or the sizes do not fit each other.
    """
    largest = max(batch.values(), key=lambda images: images.shape[-1])
    smallest = min(batch.values(), key=lambda images: images.shape[-1])
    n, _, height, width = smallest.shape
    size = (size, size) if isinstance(size, int) else size
    scale = largest.shape[3] // width
    if largest.shape[2] < size[0] or largest.shape[3] < size[1]:
        raise UsageError(
            f"size: expected at most that of the images, {_shown(*largest.shape[2:])}, got {_shown(*size)}"
        )
    if size[0] % scale or size[1] % scale:
        raise UsageError(f"size: expected multiples of {scale}, as the images are so many times as large, got {size}")
    if rotate and size[0] != size[1]:
        raise UsageError(f"rotate: expected False for crops that are no squares, got {rotate} and {_shown(*size)}")
    spare = height - size[0] // scale, width - size[1] // scale
    device = smallest.device
    if random is None:
        top, left = (torch.full((n,), room // 2, device=device) for room in spare)
        turn = torch.zeros(3, n, dtype=torch.bool, device=device)
    else:
        u = random.uniform(n, 5)
        # float32 below 1 times a whole number may round up to it.
        top, left = ((u[:, i] * (room + 1)).long().clamp(max=room) for i, room in enumerate(spare))
        turn = torch.stack([(u[:, 2] < 0.5) & flip, (u[:, 3] < 0.5) & rotate, (u[:, 4] < 0.5) & rotate])
    cropped = {}
    for name, images in batch.items():
        factor, rest = divmod(images.shape[3], width)
        if rest or images.shape[2] != factor * height or scale % factor:
            raise UsageError(
                f"batch: expected sizes that are multiples of {_shown(height, width)}, got {_shown(*images.shape[2:])}"
            )
        cropped[name] = _gathered(
            images, top * factor, left * factor, (size[0] * factor // scale, size[1] * factor // scale), turn
        )
    return cropped


def _gathered(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int], turn: Tensor) -> Tensor:
    """turn: mirrored horizontally, mirrored vertically, and transposed (in this order of reading), bool [3, N]."""
    down, along = (torch.arange(side, device=images.device) for side in size)
    mirror_x, mirror_y, transpose = turn[:, :, None]
    rows = top[:, None] + torch.where(mirror_y, size[0] - 1 - down, down)
    columns = left[:, None] + torch.where(mirror_x, size[1] - 1 - along, along)
    index = rows[:, :, None] * images.shape[3] + columns[:, None, :]
    if size[0] == size[1]:
        index = torch.where(transpose[:, :, None], index.transpose(1, 2), index)
    flat = images.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    return flat.view(*images.shape[:2], *size)


def _shown(height: int, width: int) -> str:
    return f"{height}×{width}"
