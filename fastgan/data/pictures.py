"""Large pictures for super-resolution, cut into overlapping tiles of one size; alone, or with low-resolution ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastgan._util.options import option
from fastgan.data.cache import open_packed
from fastgan.data.imageset import ImageSet
from fastgan.data.listing import Listing, Source
from fastgan.data.pairs import by_stem, check_partners, skipped
from fastgan.data.pixels import Header, read_header
from fastgan.data.sources import check_size, encoded_source, open_source
from fastgan.data.tiles import Tiles
from fastgan.errors import DataError, UsageError

_SCALED = re.compile(r"[xX]\d+$")  # the end of the names of DIV2K's low-resolution pictures, as in 0001x4.png


def open_pictures(
    source: str | Path,
    resolution: int | None = None,
    channels: int | None = None,
    *,
    low: str = "",
    step: int | None = None,
) -> dict[str, ImageSet]:
    """Tiles of pictures of any sizes: {"target": ImageSet}; with `low` {"source": ImageSet, "target": ImageSet}.

    source: any source of images that `open_source` takes. Folders, zips and shards are cut once, into a pack in the
    cache directory.
    resolution: side of the square tiles in pixels; None for 480, or the smallest side of a picture where that is less.
    channels: 1 (gray) or 3 (RGB) converts; None keeps them.
    step: pixels from one tile to the next; None for half a side, so that most pixels are in four tiles. The last tile
    of each row and column ends where the picture does.
    low: a folder, zip or shards of the same pictures in low resolution, with the same names, or names that end with
    the scale as DIV2K's (0001x4.png). The sizes of the first two state the scale; tiles are cut at matching places.

    Raises UsageError for wrong arguments; DataError where a picture is smaller than a tile, lacks its partner, or is
    not `scale` times as large as that.
    """
    check_size(resolution, channels)
    if step is not None and step < 1:
        raise UsageError(f"step: expected a number of pixels >= 1, got {step}")
    tiles, pictures = Tiles(resolution, step), encoded_source(source)
    if low:
        partner = encoded_source(low)
        if pictures is None or partner is None:
            which = low if pictures is not None else source
            raise UsageError(f"low: pairs are matched by the names of files, and {which} is no folder, zip or shards")
        return _pairs(pictures, partner, tiles, channels)
    if pictures is not None:
        return {"target": open_packed(replace(pictures, tiles=tiles), None, channels)}
    images = open_source(source, channels=channels)
    if min(images.resolution) < (resolution or 0):
        height, width = images.resolution
        raise DataError(
            f"the images of {images.name} are {height}×{width} (height×width), smaller than tiles of"
            f" {resolution}×{resolution} pixels; give a smaller {option('resolution')}"
        )
    tiles = tiles.fitted([images.resolution])
    cut, each = tiles.cut(images.images), tiles.count(images.resolution)
    numbers = np.repeat(np.arange(len(images)), each)
    return {"target": ImageSet(cut, None, images.name, images.license, None, images.skipped, pictures=numbers)}


def _pairs(high: Source, low: Source, tiles: Tiles, channels: int | None) -> dict[str, ImageSet]:
    """Tiles of both. Pairs of which one cannot be read are left out."""
    with ExitStack() as stack:
        listings = [each.read(stack) for each in (high, low)]
        of_high, of_low = (by_stem(each, found) for each, found in zip((high, low), listings, strict=True))
        of_low = _without_scale(of_low, of_high)
        check_partners(high, low, of_high, of_low)
        stems = sorted(of_high, key=lambda stem: stem.split("/"))
        scale = _scale(high, low, listings, [(of_high[stem], of_low[stem]) for stem in stems])
    for name, value in (("resolution", tiles.side), ("step", tiles.step)):
        if value is not None and value % scale:
            raise UsageError(f"{name}: expected a multiple of {scale}, the scale of {low.path}, got {value}")
    tiles = tiles._replace(multiple=scale)
    while True:
        orders = [[of[stem] for stem in stems] for of in (of_high, of_low)]
        target = _opened(high, orders[0], tiles, channels, (low, orders[1], scale))
        side = target.resolution[0]
        step = tiles.fitted([(side, side)]).step
        assert step is not None
        source = _opened(low, orders[1], Tiles(side // scale, step // scale), channels)
        unread = [set(skipped(images)) for images in (target, source)]
        lost = {
            stem
            for stem, numbers in zip(stems, zip(*orders, strict=True), strict=True)
            if any(found.names[i] in names for found, i, names in zip(listings, numbers, unread, strict=True))
        }
        if not lost:
            break
        stems = [stem for stem in stems if stem not in lost]
    if source.channels != target.channels:  # where only one of them holds color
        return _pairs(high, low, tiles, 3)
    return {"source": source, "target": target}


def _without_scale(of_low: dict[str, int], of_high: dict[str, int]) -> dict[str, int]:
    """Low-resolution pictures by the name of their partner: without x4 at the end where that is no partner's name."""
    named = {}
    for stem, i in of_low.items():
        partner = _SCALED.sub("", stem)
        named[stem if stem in of_high or partner not in of_high or partner in of_low else partner] = i
    return named


def _opened(
    source: Source,
    order: Sequence[int],
    tiles: Tiles,
    channels: int | None,
    partner: tuple[Source, Sequence[int], int] | None = None,
) -> ImageSet:
    """The tiles of some pictures of a source, in this order. partner: what it is to be so many times as large as."""

    def read(stack: ExitStack) -> Listing:
        found = source.read(stack)
        check = None if partner is None else _check_of_scale(source, found, order, partner, stack)
        return Listing([found.names[i] for i in order], lambda i: found.open(order[i]), check=check)

    # Another order is another pack, and a target is checked again where its source has changed.
    view = hashlib.sha256(repr((order, partner and partner[1:])).encode()).hexdigest()
    files = source.files if partner is None else [*source.files, *partner[0].files]
    return open_packed(replace(source, read=read, view=f"pictures {view}", tiles=tiles, files=files), None, channels)


def _check_of_scale(
    source: Source, found: Listing, order: Sequence[int], partner: tuple[Source, Sequence[int], int], stack: ExitStack
) -> Callable[[int, Header], None]:
    """A check of the headers of `source` against those of their partners."""
    low, order_of_low, scale = partner
    smaller = low.read(stack)

    def check(i: int, header: Header) -> None:
        try:
            with smaller.open(order_of_low[i]) as file:
                small = read_header(file)
        except Exception:  # left out where it is decoded
            return
        if (header.width, header.height) != (scale * small.width, scale * small.height):
            names = found.names[order[i]], smaller.names[order_of_low[i]]
            raise _unfitting(source, low, names, [header, small], f"{scale} times as large, as the first pair is")

    return check


def _scale(high: Source, low: Source, listings: Sequence[Listing], numbers: Sequence[tuple[int, int]]) -> int:
    """The ratio of the sizes of the first pair whose headers can be read."""
    for numbers_of_pair in numbers:
        try:
            headers = []
            for listing, i in zip(listings, numbers_of_pair, strict=True):
                with listing.open(i) as file:
                    headers.append(read_header(file))
        except Exception:  # left out, or refused, where all are read
            continue
        large, small = headers
        scale = large.width // small.width
        if scale < 1 or (large.width, large.height) != (scale * small.width, scale * small.height):
            names = [found.names[i] for found, i in zip(listings, numbers_of_pair, strict=True)]
            raise _unfitting(high, low, names, headers, "a whole number of times as large")
        return scale
    raise DataError(f"no pair of {high.path} and {low.path} can be read; check the files")


def _unfitting(high: Source, low: Source, names: Sequence[str], headers: Sequence[Header], expected: str) -> DataError:
    large, small = (f"{header.width}×{header.height}" for header in headers)
    return DataError(
        f"{names[0]} in {high.path} is {large} and {names[1]} in {low.path} {small} pixels (width×height); expected"
        f" pictures {expected}"
    )
