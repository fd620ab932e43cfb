"""Pairs of images for paired translation: side by side in one file, in two folders by name, or made by a function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastgan._util.env import user_path
from fastgan._util.options import option
from fastgan._util.output import printable
from fastgan.data import pixels
from fastgan.data.cache import open_packed
from fastgan.data.imageset import ImageSet
from fastgan.data.listing import Listing, Source
from fastgan.data.made_sources import made_sources
from fastgan.data.pack import META
from fastgan.data.shards import are_shards
from fastgan.data.sources import check_size, encoded_source, open_source
from fastgan.errors import DataError, UsageError

#: Sub-folders of one folder that hold both images of its pairs, first a, then b.
FOLDERS = (("A", "B"), ("trainA", "trainB"), ("source", "target"), ("input", "target"))
DIRECTIONS = ("a-to-b", "b-to-a")
_SHOWN = 5


def open_pairs(
    source: str | Path,
    resolution: int | None = None,
    channels: int | None = None,
    *,
    target: str = "",
    direction: str = "a-to-b",
    make: str = "",
    source_channels: int | None = None,
) -> dict[str, ImageSet]:
    """Pairs of images: {"source": ImageSet, "target": ImageSet}, of equal count and size, in the same order.

    source: a folder or zip of pictures whose halves are the two images, a on the left; a folder with the sub-folders A
    and B (or trainA and trainB, source and target, input and target); with `target` or `make` any source of images that
    `open_source` takes.
    target: the other images. Two folders, zips or shards are matched by the names of their files without the suffix;
    other sources by their order.
    direction: "a-to-b" makes b from a, "b-to-a" the other way round; a is `source`, b is `target`.
    make: the images are the targets, and sources are made from them: "edges", "gray", "mask" (a block removed),
    "low-resolution", or FILE.py:FUNCTION, called with an image, uint8 [H, W] or [H, W, 3], which returns uint8 [H, W]
    or [H, W, 3].
    resolution: both are cropped to the centered square and resized to it; None keeps their size.
    channels, source_channels: 1 (gray) or 3 (RGB) converts targets, and sources; None keeps them.

    Raises UsageError for wrong arguments; DataError where an image lacks its partner, where the two of a pair differ in
    size, and for a picture of odd width whose halves are meant.
    """
    check_size(resolution, channels)
    check_size(None, source_channels, "source_channels")
    if direction not in DIRECTIONS:
        raise UsageError(f"direction: expected {' or '.join(DIRECTIONS)}, got {direction!r}")
    if make:
        if target or direction != DIRECTIONS[0]:
            raise UsageError(
                f"make: sources are made from the images of {source}; leave"
                f" {option('data.target') if target else option('data.direction')} out"
            )
        images = open_source(source, resolution=resolution, channels=channels)
        made = pixels.convert(made_sources(images.images, make), None, source_channels)
        return {"source": replace(images, images=made, pack=None), "target": images}
    wanted = (source_channels, channels) if direction == DIRECTIONS[0] else (channels, source_channels)
    a, b = _both(source, target, resolution, wanted)
    _check_alike(a, b)
    return {"source": a, "target": b} if direction == DIRECTIONS[0] else {"source": b, "target": a}


def _both(
    source: str | Path, target: str, resolution: int | None, channels: tuple[int | None, int | None]
) -> tuple[ImageSet, ImageSet]:
    """The images a and b."""
    first, second = encoded_source(source), encoded_source(target) if target else None
    if first is not None and second is not None:
        return _by_name(first, second, resolution, channels)
    if target:
        found = [
            open_source(each, resolution=resolution, channels=c)
            for each, c in zip((source, target), channels, strict=True)
        ]
        return found[0], found[1]
    if first is None:
        raise UsageError(
            f"target: expected the other images of the pairs, as {source} is no folder or zip of pictures; give"
            f" {option('data.target')}, or let {option('data.make')} make sources"
        )
    if folders := _folders_in(user_path(source)):
        inside = [encoded_source(folder) for folder in folders]
        assert inside[0] is not None
        assert inside[1] is not None
        return _by_name(inside[0], inside[1], resolution, channels)
    halves = [
        open_packed(replace(first, view=half), resolution, c)
        for half, c in zip(("left", "right"), channels, strict=True)
    ]
    return halves[0], halves[1]


def _folders_in(folder: Path) -> tuple[Path, Path] | None:
    """Sub-folders that hold the images a and b."""
    for a, b in FOLDERS:
        if (folder / a).is_dir() and (folder / b).is_dir():
            return folder / a, folder / b
    return None


def _by_name(
    a: Source, b: Source, resolution: int | None, channels: tuple[int | None, int | None]
) -> tuple[ImageSet, ImageSet]:
    """The images of two sources in the order of their names. Pairs of which one cannot be read are left out."""
    with ExitStack() as stack:
        names = [by_stem(source, source.read(stack)) for source in (a, b)]
    check_partners(a, b, *names)
    stems = sorted(names[0], key=lambda stem: stem.split("/"))
    while True:
        first = open_packed(_in_order(a, stems, None), resolution, channels[0])
        second = open_packed(_in_order(b, stems, a), resolution, channels[1])
        lost = {_stem(name, own) for own, images in ((a, first), (b, second)) for name in skipped(images)}
        if not lost:
            return first, second
        stems = [stem for stem in stems if stem not in lost]


def _in_order(source: Source, stems: Sequence[str], partner: Source | None) -> Source:
    """A source with the images of these names, in this order. partner: whose images they must be as large as."""

    def listing(of: Source, stack: ExitStack) -> Listing:
        found = of.read(stack)
        number = by_stem(of, found)
        order = [number[stem] for stem in stems]
        labels = None if found.labels is None else found.labels[order]
        return replace(found, names=[found.names[i] for i in order], open=lambda i: found.open(order[i]), labels=labels)

    def read(stack: ExitStack) -> Listing:
        own = listing(source, stack)
        if partner is None:
            return own
        other = listing(partner, stack)

        def check(i: int, header: pixels.Header) -> None:
            try:
                with other.open(i) as file:
                    expected = pixels.read_header(file)
            except Exception:  # it is left out where it is decoded
                return
            if (expected.width, expected.height) != (header.width, header.height):
                raise DataError(
                    f"{other.names[i]} in {partner.path} is {expected.width}×{expected.height} and {own.names[i]} in"
                    f" {source.path} {header.width}×{header.height} pixels (width×height); the images of a pair are of"
                    " one size"
                )

        return replace(own, check=check)

    # Of names that need not be valid Unicode.
    names = hashlib.sha256(json.dumps(list(stems), ensure_ascii=True).encode()).hexdigest()
    return replace(source, read=read, view=f"named {names}")


def _stem(name: str, source: Source) -> str:
    """The path of an image within its source, without its suffix and the name of its shard."""
    stem = str(Path(name).with_suffix("")).replace("\\", "/")
    return stem.partition("/")[2] if are_shards(source.path) else stem


def by_stem(source: Source, listing: Listing) -> dict[str, int]:
    """The number of each image by the name that it shares with its partner."""
    found: dict[str, int] = {}
    for i, name in enumerate(listing.names):
        if (before := found.setdefault(_stem(name, source), i)) != i:
            raise DataError(
                f"{listing.names[before]} and {name} in {source.path} would both be the partner of one image; remove or"
                " rename one"
            )
    return found


def check_partners(a: Source, b: Source, of_a: dict[str, int], of_b: dict[str, int]) -> None:
    """Raise DataError that lists images without a partner."""
    lacking = []
    for own, other, alone in ((a, b, of_a.keys() - of_b.keys()), (b, a, of_b.keys() - of_a.keys())):
        if alone:
            more = f" and {len(alone) - _SHOWN:,} more" if len(alone) > _SHOWN else ""
            shown = ", ".join(map(printable, sorted(alone)[:_SHOWN]))
            lacking.append(f"{shown}{more} of {own.path} in {other.path}")
    if lacking:
        raise DataError(
            f"no image of the same name for {'; nor for '.join(lacking)}; add the partners, or remove these images"
        )


def skipped(images: ImageSet) -> list[str]:
    """Names of the images of a pack that cannot be read."""
    if not images.skipped or images.pack is None:
        return []
    return list(json.loads((images.pack / META).read_text(encoding="utf-8"))["skipped"])


def _check_alike(a: ImageSet, b: ImageSet) -> None:
    """Raise DataError unless both sets have as many images, of one size, and the same labels where both have some."""
    if len(a) != len(b):
        raise DataError(
            f"{a.name} has {len(a):,} images and {b.name} {len(b):,}; pairs need as many of one as of the other"
        )
    if a.resolution != b.resolution:
        (h, w), (height, width) = a.resolution, b.resolution
        raise DataError(
            f"{a.name} has images of {w}×{h} and {b.name} of {width}×{height} pixels (width×height); the images of a"
            f" pair are of one size: give {option('resolution')}"
        )
    if a.labels is not None and b.labels is not None and not np.array_equal(a.labels, b.labels):
        raise DataError(f"{a.name} and {b.name} have other labels, so that they are no pairs; give sets of one order")
