"""What tasks learn from, by kind: images, pairs of them, two sets of them. A new kind is one function in a file of its
own and one line in KINDS:

    open_KIND(source, resolution, channels, *, OPTION: TYPE = DEFAULT, ...) -> {"NAME": ImageSet, ...}

Its keyword-only arguments are options of this kind, `--data.OPTION` on the command line. The names are the entries of
the batches that the task gets.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastgan._util import keyword_options
from fastgan.data.imageset import ImageSet
from fastgan.data.sources import open_source
from fastgan.errors import UsageError


class Kind(NamedTuple):
    """function: "module:name" of what opens it. aligned: whether images of the same number belong together. partners:
    whether each image comes with another one of its class."""

    function: str
    aligned: bool = True
    partners: bool = False


KINDS: dict[str, Kind] = {
    "classes": Kind("fastgan.data.kinds:open_classes", partners=True),
    "images": Kind("fastgan.data.kinds:open_images"),
    "pairs": Kind("fastgan.data.pairs:open_pairs"),
    "unpaired": Kind("fastgan.data.unpaired:open_unpaired", aligned=False),
    "pictures": Kind("fastgan.data.pictures:open_pictures"),
}


def open_images(source: str, resolution: int | None, channels: int | None) -> dict[str, ImageSet]:
    """Single images, with labels where they have some: {"real": images}."""
    return {"real": open_source(source, resolution=resolution, channels=channels)}


def open_classes(source: str, resolution: int | None, channels: int | None) -> dict[str, ImageSet]:
    """Labeled images, of each class two at least: {"real": images}. Raises UsageError for others."""
    images = open_source(source, resolution=resolution, channels=channels)
    if images.labels is None:
        why = f", as {images.why_unlabeled}" if images.why_unlabeled else ""
        raise UsageError(
            f"data: expected labeled images, such as a folder for each class; {images.name} has no labels{why}"
        )
    counts = np.bincount(images.labels, minlength=images.num_classes)
    if counts.min() < 2:
        label = int(counts.argmin())
        name = images.class_names[label] if images.class_names else label
        raise UsageError(f"data: expected at least 2 images of each class, got {counts[label]} of {name!r}")
    return {"real": images}


def option_types(kind: str) -> dict[str, Any]:
    """The options of a kind of data and their types."""
    return keyword_options.option_types(_function(kind))


def open_sets(
    kind: str, source: str, resolution: int | None, channels: int | None, options: Mapping[str, Any]
) -> dict[str, ImageSet]:
    """The sets of images of a source, by the name of their entry in a batch.

    Raises UsageError for an option that the kind has not, and what opening raises.
    """
    function = _function(kind)
    keyword_options.check_options(f"data of the kind {kind}", option_types(kind), options)
    found: dict[str, ImageSet] = function(source, resolution, channels, **options)
    return found


def _function(kind: str) -> Callable[..., Any]:
    module, _, name = KINDS[kind].function.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
