"""Decode the images of a source into the arrays of a pack, with bounded memory."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from fastgan._util.files import amount
from fastgan._util.options import option
from fastgan._util.output import printable
from fastgan._util.progress import Progress
from fastgan.data import pixels
from fastgan.data.listing import Listing, Source
from fastgan.data.pack import paths_in
from fastgan.data.tiles import Tiles
from fastgan.errors import DataError

_logger = logging.getLogger(__name__)

_PENDING = 32  # images decoded but not yet written; with one for each thread they bound the memory
_PENDING_LARGE = 4  # the same of pictures that are cut into tiles
_SHOWN = 10
_NPY_HEADER = 128  # bytes

Result = TypeVar("Result")


class Built(NamedTuple):
    """The written pack. shape: (N, C, H, W) of the images. pictures: how many files were listed. skipped: names of
    those that cannot be read. why_unlabeled: as in Listing. tiles: how many there are of each picture, 1 without tiles.
    """

    shape: tuple[int, ...]
    pictures: int
    class_names: tuple[str, ...] | None
    skipped: list[str]
    why_unlabeled: str
    tiles: list[int]


def build(source: Source, folder: Path, resolution: int | None, channels: int | None) -> Built:
    """Decode a source into images.npy and, where it has labels, labels.npy in an existing folder.

    resolution, channels: as in `open_source`. All headers are read before any image is decoded, so that most errors
    come early. Images that cannot be read are left out. Raises DataError where more than half cannot be read, where
    sizes differ and `resolution` is None, and where the disk has too little space; OSError for `folder` itself (any
    error of an image makes it unreadable instead).
    """
    with ExitStack() as stack:
        listing = source.read(stack)
        if source.tiles is not None:  # a tile of a picture need not show what its label says
            listing = replace(listing, labels=None, class_names=None, why_unlabeled="")
        readable, sizes, gray = _survey(source, listing, channels)
        tiles = None if source.tiles is None else source.tiles.fitted(sizes)
        side = resolution if tiles is None else tiles.side
        size = _one_size(source, sizes) if side is None else (side, side)
        count = len(readable) if tiles is None else sum(tiles.count(size) * n for size, n in sizes.items())
        shape = (count, channels or (1 if gray else 3), *size)
        needed = prod(shape) + 8 * len(readable)
        if (free := shutil.disk_usage(folder).free) < needed:
            raise _disk_full(source, folder, needed, f"which has {amount(free)} free")
        images_path, labels_path = paths_in(folder)
        try:
            kept, counts = _write(source, listing, readable, images_path, shape, resolution, tiles)
            if listing.labels is not None:
                np.save(labels_path, listing.labels[kept], allow_pickle=False)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _disk_full(source, folder, needed, "which is full") from error
            raise
    present = set(kept)
    skipped = [name for i, name in enumerate(listing.names) if i not in present]
    final = (sum(counts), *shape[1:])
    return Built(final, len(listing.names), listing.class_names, skipped, listing.why_unlabeled, counts)


def half_of(source: Source) -> str:
    """The half of each picture that a source is of, "left" or "right", or "" for whole pictures."""
    return source.view if source.view in ("left", "right") else ""


def _half_header(header: pixels.Header, name: str) -> pixels.Header:
    if header.width % 2:
        raise DataError(
            f"{name} is {header.width}×{header.height} pixels (width×height); a picture of two images side by side has"
            " an even width"
        )
    return header._replace(width=header.width // 2)


def describe_skipped(skipped: list[str], total: int, where: str) -> str:
    """`3 of 6 images in WHERE cannot be read: a.png, b.png, c.png`."""
    more = f" and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
    shown = ", ".join(map(printable, skipped[:_SHOWN]))
    return f"{len(skipped)} of {total} images in {where} cannot be read: {shown}{more}"


def _survey(source: Source, listing: Listing, channels: int | None) -> tuple[list[int], Counts[tuple[int, int]], bool]:
    """Read all headers: indices of the readable images, how many have which (height, width), whether all are gray.

    Logs which are gray among colored ones, and which have transparent parts. Raises DataError where a picture is
    smaller than the side of its tiles.
    """
    readable, sizes = [], Counts[tuple[int, int]]()
    gray: list[int] = []
    transparent: list[int] = []
    small: list[int] = []
    least = 0 if source.tiles is None else source.tiles.side or 0
    everything = range(len(listing.names))
    with closing(_each(pixels.read_header, everything, source, listing, "reading headers of")) as headers:
        for i, header in headers:
            if header is not None:
                if half_of(source):
                    header = _half_header(header, f"{listing.names[i]} in {source.path}")
                if listing.check is not None:
                    listing.check(i, header)
                readable.append(i)
                sizes[header.height, header.width] += 1
                for found, has in ((gray, header.gray), (transparent, header.alpha), (small, least > min(header[:2]))):
                    if has:
                        found.append(i)
    _check_most(source, listing, readable)

    def of_all(found: list[int]) -> str:
        of = f"{len(found):,} of {len(readable):,} images in {source.path}"
        return f"{of}, such as {printable(listing.names[found[0]])},"

    if small:
        raise DataError(
            f"{of_all(small)} are smaller than {least}×{least} pixels; remove them, or give a smaller"
            f" {option('resolution')}"
        )
    if channels is None and 0 < len(gray) < len(readable):
        _logger.info("%s are gray and become RGB", of_all(gray))
    if transparent:
        _logger.info("%s have transparent parts, which become white", of_all(transparent))
    return readable, sizes, len(gray) == len(readable)


def _one_size(source: Source, sizes: Counts[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) of all images."""
    if len(sizes) > 1:
        (a, b), (c, d) = (size for size, _ in sizes.most_common(2))
        raise DataError(
            f"the images in {source.path} have {len(sizes)} sizes, such as {a}×{b} and {c}×{d} (height×width); "
            f"pass {option('resolution')} to crop and resize them to one"
        )
    return next(iter(sizes))


def _write(
    source: Source,
    listing: Listing,
    readable: list[int],
    path: Path,
    shape: tuple[int, ...],
    resolution: int | None,
    tiles: Tiles | None,
) -> tuple[list[int], list[int]]:
    """Decode the images into a .npy file of uint8 [N, C, H, W]; returns the indices of those that could be decoded,
    and how many of the N each became."""

    def decode(file: BinaryIO) -> np.ndarray:
        # The whole file first: a zip verifies its checksum at the end, and a decoder may stop earlier.
        image = pixels.decode(io.BytesIO(file.read()), shape[1], resolution, half_of(source))
        if tiles is None and image.shape != shape[1:]:
            raise ValueError(f"the header states {shape[1:]}")
        if tiles is not None and not tiles.count(image.shape[1:]):
            raise ValueError("the header states a larger picture")
        return np.ascontiguousarray(image)

    kept, counts = [], []
    # Not through a memory map: on a full disk a write raises, but a store into a map kills the process.
    with path.open("wb") as file:
        file.write(_npy_header(shape))
        pending = _PENDING if tiles is None else _PENDING_LARGE
        with closing(_each(decode, readable, source, listing, "packing", pending)) as decoded:
            for i, image in decoded:
                if image is not None:
                    images = image[None] if tiles is None else tiles.cut(image)
                    kept.append(i)
                    counts.append(len(images))
                    file.write(images)
        _check_most(source, listing, kept)
        file.seek(0)
        file.write(_npy_header((sum(counts), *shape[1:])))
        file.flush()
        os.fsync(file.fileno())
    return kept, counts


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file, of fixed length, so that the number of images can be corrected at the end."""
    start = b"\x93NUMPY\x01\x00" + (_NPY_HEADER - 10).to_bytes(2, "little")
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape})
    return start + text.encode().ljust(_NPY_HEADER - len(start) - 1) + b"\n"


def _each(
    work: Callable[[BinaryIO], Result],
    wanted: Sequence[int],
    source: Source,
    listing: Listing,
    doing: str,
    pending: int = _PENDING,
) -> Generator[tuple[int, Result | None]]:
    """(i, work(file of image i)) in order, computed by a pool of threads; None for images that cannot be read.

    pending: how many results may wait.
    """

    def attempt(i: int) -> Result | None:
        try:
            with listing.open(i) as file:
                return work(file)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(
                f"{listing.names[i]} in {source.path} exceeds Pillow's limit for decompression bombs ({error}); "
                "remove or shrink it"
            ) from error
        except (MemoryError, DataError):
            raise
        except Exception:  # Pillow's decoders raise nearly every type on damaged files
            return None

    counter = Progress(f"{doing} {source.name}", len(wanted))
    with pixels.pool() as workers:
        waiting: deque[tuple[int, Future[Result | None]]] = deque()
        try:
            for i in wanted:
                waiting.append((i, workers.submit(attempt, i)))
                if len(waiting) >= pending:
                    yield _first(waiting, counter)
            while waiting:
                yield _first(waiting, counter)
        finally:
            for _, future in waiting:
                future.cancel()
            counter.close()


def _first(waiting: deque[tuple[int, Future[Result | None]]], counter: Progress) -> tuple[int, Result | None]:
    i, future = waiting.popleft()
    result = future.result()
    counter.add()
    return i, result


def _check_most(source: Source, listing: Listing, readable: list[int]) -> None:
    total = len(listing.names)
    if 2 * len(readable) < total or not readable:
        present = set(readable)
        broken = [name for i, name in enumerate(listing.names) if i not in present]
        raise DataError(
            f"{describe_skipped(broken, total, source.path)}; that is more than half: remove or replace them"
        )


def _disk_full(source: Source, folder: Path, needed: int, found: str) -> DataError:
    """The error of a disk that is, or would become, full. found: a clause about the disk."""
    return DataError(
        f"packing {source.path} takes {amount(needed)} in {folder.parent}, {found}; "
        f"free some space, set FASTGAN_CACHE to another directory, or pass a smaller {option('resolution')}"
    )
