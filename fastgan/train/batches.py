"""What comes in a batch: images alone, images and their labels, or sources and what is to be made of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError

#: Images [N, C, H, W], float in [-1, 1]; or a pair of them and their labels, int64 [N]; or a pair of sources, float
#: [N, source_channels, H', W'], and the images that are their targets.
Batch = Tensor | tuple[Tensor, Tensor]


def source_channels(network: nn.Module) -> int:
    """Channels of the sources that a network takes; 0 where it takes none."""
    return int(getattr(network, "source_channels", 0))


def taken(
    batch: Any, generator: nn.Module, discriminator: nn.Module, device: torch.device, name: str = "batches"
) -> dict[str, Tensor]:
    """A batch on the device as both networks take it.

    "real": its images. "y": what the discriminator is told beside them, labels or sources, where it is told any. "z": the
    sources, of which a generator with `source_channels` makes images. Labels that nobody asked for are left out.
    Raises UsageError, which begins with `name`, for a batch of another kind.
    """
    channels = source_channels(generator)
    pair = isinstance(batch, list | tuple) and len(batch) == 2
    first, second = batch if pair else (batch, None)
    images = second if channels else first
    if channels and not _go_together(first, second, channels):
        raise UsageError(
            f"{name}: expected pairs of sources, float [N, {channels}, H, W], and targets, float [N, C, H, W], as the"
            f" generator's source_channels is {channels}, got {_told(first)} and {_told(second)}"
        )
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"{name}: expected float tensors [N, C, H, W] in [-1, 1], or pairs with labels, got {came}")
    real = images.to(device, non_blocking=True)
    if channels:
        source = first.to(device, non_blocking=True)
        return {"real": real, "z": source} | ({"y": source} if source_channels(discriminator) else {})
    classes = int(getattr(generator, "classes", 0))
    if not classes:
        return {"real": real}
    if not isinstance(second, Tensor) or second.dtype != torch.int64 or second.shape != (len(real),):
        raise UsageError(
            f"{name}: expected pairs of images and labels, int64 [{len(real)}], as the generator has {classes} classes,"
            f" got labels {_told(second)}"
        )
    return {"real": real, "y": second.to(device, non_blocking=True)}


def _go_together(source: Any, target: Any, channels: int) -> bool:
    return (
        all(isinstance(each, Tensor) and each.is_floating_point() and each.dim() > 1 for each in (source, target))
        and len(source) == len(target)
        and source.shape[1] == channels
    )


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
    return "none" if value is None else type(value).__name__
