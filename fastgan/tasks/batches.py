"""Batches as the data gives them, as the dictionaries that tasks take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastgan.errors import UsageError


def images_and_labels(batch: Any, classes: int, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """{"real": images in a dtype}, and "labels" int64 [N] where there are classes; labels not needed are left out.

    batch: images, alone or in a list, a pair of images and labels, or a dictionary of both. labels: see `class_labels`.
    Raises UsageError, which begins with `name`.
    """
    found = _named(batch, "real", "labels")
    images = found.get("real")
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else described(batch)
        raise UsageError(
            f"{name}: expected float tensors [N, C, H, W] in [-1, 1], or pairs with labels, got {came}"
            f"{_cure(batch if images is None else images)}{_other_names(batch, 'real')}"
        )
    images = images.to(dtype)
    if not classes:
        return {"real": images}
    return {"real": images, "labels": class_labels(found.get("labels"), len(images), classes, name)}


def sources_and_targets(batch: Any, channels: int, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """{"source": ..., "target": ...}, in a dtype, of a pair or a dictionary. channels: of the sources.

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
            f"{_cure(source) or _cure(target)}{_other_names(batch, 'source', 'target')}"
        )
    return {"source": source.to(dtype), "target": target.to(dtype)}  # type: ignore[union-attr]


def two_domains(batch: Any, channels: Mapping[str, int], name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """{"a": ..., "b": ...}, in a dtype, of a pair or a dictionary. channels: of the images of each domain.

    Raises UsageError, which begins with `name`.
    """
    found = _named(batch, "a", "b")
    a, b = found.get("a"), found.get("b")
    fits = all(
        isinstance(each, Tensor) and each.is_floating_point() and each.dim() == 4 and each.shape[1] == channels[domain]
        for domain, each in (("a", a), ("b", b))
    )
    if not fits or a.shape[::2] + a.shape[3:] != b.shape[::2] + b.shape[3:]:  # type: ignore[union-attr]
        wanted = " and ".join(f"{domain}, float [N, {channels[domain]}, H, W]" for domain in ("a", "b"))
        raise UsageError(
            f"{name}: expected images of two domains, as many and of one size, {wanted}, got {described(a)} and"
            f" {described(b)}{_cure(a) or _cure(b)}{_other_names(batch, 'a', 'b')}"
        )
    return {"a": a.to(dtype), "b": b.to(dtype)}  # type: ignore[union-attr]


def class_labels(labels: Any, count: int, classes: int, name: str) -> Tensor:
    """Labels int64 [count] of numbers: integers or whole floats [count] or [count, 1], or one-hot [count, classes].

    Values are looked at where they are on the CPU: a GPU would have to be waited for.
    Raises UsageError, which begins with `name`, for others, such as the weights of soft labels.
    """
    expected = f"{name}: expected pairs of images and labels, int64 [{count}], as the generator has {classes} classes"
    if not isinstance(labels, Tensor) or labels.is_complex() or labels.dtype == torch.bool:
        raise UsageError(f"{expected}, got labels {described(labels)}")
    if labels.dim() == 2 and labels.shape == (count, classes) and classes > 1:
        hot = labels != 0
        if labels.device.type == "cpu" and not bool(((hot.sum(1) == 1) & (labels.sum(1) == 1)).all()):
            raise UsageError(
                f"{expected}, got {described(labels)} that are not one-hot (a single 1 in each row); one label an image"
            )
        labels = hot.long().argmax(1)
    elif labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise UsageError(f"{expected}, got labels {described(labels)}")
    found = labels.long()
    if labels.device.type == "cpu" and count:
        if labels.is_floating_point() and not bool((found == labels).all()):
            raise UsageError(f"{expected}, got {described(labels)} with values that are no whole numbers")
        low, high = (int(each) for each in found.aminmax())
        if low < 0 or high >= classes:
            raise UsageError(f"{expected}, numbered from 0 to {classes - 1}, got {low if low < 0 else high}")
    return found


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
    if isinstance(value, list | tuple):
        more = ", ..." if len(value) > 4 else ""
        return f"{type(value).__name__} of {len(value)} ({', '.join(_short(each) for each in value[:4])}{more})"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{type(value).__name__} {value.dtype} {list(value.shape)}"
    return "none" if value is None else type(value).__name__


def _short(value: Any) -> str:
    return described(value) if isinstance(value, Tensor) else type(value).__name__


def on_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch there. Entries that share one tensor still share one."""
    moved = {id(value): value.to(device, non_blocking=True) for value in batch.values()}
    return {name: moved[id(value)] for name, value in batch.items()}


def _named(batch: Any, first: str, second: str) -> dict[str, Any]:
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, list | tuple) and len(batch) in (1, 2):
        return dict(zip((first, second), batch, strict=False))
    return {first: batch} if isinstance(batch, Tensor) else {}


def _cure(images: Any) -> str:
    """What makes float tensors of pixels and of numpy arrays."""
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        return "; of pixels from 0 to 255 take images / 127.5 - 1"
    return "; torch.from_numpy makes tensors of arrays" if type(images).__module__ == "numpy" else ""


def _other_names(batch: Any, *entries: str) -> str:
    """What to do about a dictionary without these entries."""
    if not isinstance(batch, Mapping) or all(entry in batch for entry in entries):
        return ""
    return f"; name its entries {' and '.join(map(repr, entries))}"
