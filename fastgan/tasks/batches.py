"""Batches as the data gives them, as the dictionaries that tasks take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastgan.errors import UsageError


def images_and_labels(batch: Any, classes: int, name: str) -> dict[str, Tensor]:
    """{"real": images}, and "labels" where there are classes; labels that are not needed are left out.

    batch: images, a pair of images and labels, or a dictionary of both. Raises UsageError, which begins with `name`.
    """
    found = _named(batch, "real", "labels")
    images, labels = found.get("real"), found.get("labels")
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else type(batch).__name__
        raise UsageError(f"{name}: expected float tensors [N, C, H, W] in [-1, 1], or pairs with labels, got {came}")
    if not classes:
        return {"real": images}
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (len(images),):
        raise UsageError(
            f"{name}: expected pairs of images and labels, int64 [{len(images)}], as the generator has {classes}"
            f" classes, got labels {described(labels)}"
        )
    return {"real": images, "labels": labels}


def sources_and_targets(batch: Any, channels: int, name: str) -> dict[str, Tensor]:
    """{"source": ..., "target": ...} of a pair or a dictionary. channels: of the sources.

    Raises UsageError, which begins with `name`.
    """
    found = _named(batch, "source", "target")
    source, target = found.get("source"), found.get("target")
    if (
        not all(isinstance(each, Tensor) and each.is_floating_point() and each.dim() > 1 for each in (source, target))
        or len(source) != len(target)  # type: ignore[arg-type]
        or source.shape[1] != channels  # type: ignore[union-attr]
    ):
        raise UsageError(
            f"{name}: expected pairs of sources, float [N, {channels}, H, W], and targets, float [N, C, H, W], as the"
            f" generator's source_channels is {channels}, got {described(source)} and {described(target)}"
        )
    return {"source": source, "target": target}  # type: ignore[dict-item]


def any_tensors(batch: Any, real: str, name: str) -> dict[str, Tensor]:
    """A mapping of tensors as it is, a tensor as {real: ...}, a pair as {real: ..., "labels": ...}.

    Raises UsageError, which begins with `name`.
    """
    found = _named(batch, real, "labels")
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise UsageError(f"{name}: expected a dictionary of tensors, a tensor or a pair, got {described(batch)}")
    if real not in found:
        raise UsageError(f"{name}: expected an entry {real!r}, got {', '.join(map(repr, found))}")
    if len({len(value) for value in found.values()}) > 1:
        raise UsageError(f"{name}: expected tensors of one length, got {described(batch)}")
    return found


def described(value: Any) -> str:
    """What came, for an error: shapes and dtypes of tensors, else the type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {described(each)}" for name, each in value.items()) + "}"
    return "none" if value is None else type(value).__name__


def on_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch there. Entries that share one tensor still share one."""
    moved = {id(value): value.to(device, non_blocking=True) for value in batch.values()}
    return {name: moved[id(value)] for name, value in batch.items()}


def _named(batch: Any, first: str, second: str) -> dict[str, Any]:
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return {first: batch[0], second: batch[1]}
    return {first: batch} if isinstance(batch, Tensor) else {}
