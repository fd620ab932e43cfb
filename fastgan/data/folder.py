"""A folder of pictures as an ImageSet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from fastgan.data import pixels
from fastgan.data.imageset import NOT_STATED, ImageSet
from fastgan.errors import DataError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_SHOWN = 3

Result = TypeVar("Result")


def read_folder(folder: Path, resolution: int | None, channels: int | None) -> ImageSet:
    """Read every picture below `folder`, in the order of their paths; hidden files and folders are passed over.

    Where all pictures lie in sub-folders, those of the first level are the classes. Headers are read first, so that
    the result is allocated once and memory stays at the result plus one picture for each thread.
    Raises DataError: no pictures, pictures that cannot be read, several sizes without `resolution`.
    """
    paths = _find(folder)
    headers, unreadable = _each(pixels.read_header, paths, folder)
    if not headers:
        raise _unreadable(unreadable, len(paths), folder)
    if resolution is None:
        _check_one_size([(header.height, header.width) for header in headers.values()], folder)
    if channels is None:
        channels = 1 if all(header.grey for header in headers.values()) else 3
    first = next(iter(headers.values()))
    size = (first.height, first.width) if resolution is None else (resolution, resolution)
    images = np.empty((len(paths), channels, *size), np.uint8)
    place = {path: i for i, path in enumerate(paths)}

    def into_place(path: Path) -> None:
        images[place[path]] = pixels.decode(path, channels, resolution)

    _, damaged = _each(into_place, list(headers), folder)
    if unreadable or damaged:
        raise _unreadable(sorted([*unreadable, *damaged]), len(paths), folder)
    labels, class_names = _classes([path.relative_to(folder).parts for path in paths])
    return ImageSet(images, labels, folder.resolve().name, NOT_STATED, class_names)


def _find(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted by path. Linked folders are followed, each once."""
    found: list[Path] = []
    others: list[Path] = []
    seen: set[str] = set()

    def stop(error: OSError) -> None:  # the default is to pass over what may not be read
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    for here, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = sorted(
            name for name in folders if name[0] != "." and os.path.realpath(os.path.join(here, name)) not in seen
        )
        for name in files:
            if name[0] != ".":
                (found if name.lower().endswith(SUFFIXES) else others).append(Path(here, name))
    if not found:
        wanted = ", ".join(suffix[1:] for suffix in SUFFIXES)
        beside = f"; it holds other files, such as {min(others).name}: convert them" if others else ""
        raise DataError(f"no images ({wanted}) in {folder}{beside}")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _each(work: Callable[[Path], Result], paths: Sequence[Path], folder: Path) -> tuple[dict[Path, Result], list[Path]]:
    """Run `work` on every path in a small pool of threads: the results in order, and the paths it failed on."""

    def attempt(path: Path) -> Result | Exception:
        try:
            return work(path)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(
                f"{path.relative_to(folder)} in {folder} is absurdly large, as decompression bombs are ({error}); "
                "remove it or make it smaller"
            ) from error
        except (MemoryError, DataError):
            raise
        except Exception as error:  # Pillow's decoders raise nearly every type on damaged files
            return error

    results, failed = {}, []
    with pixels.pool() as workers:
        for path, result in zip(paths, workers.map(attempt, paths), strict=True):
            if isinstance(result, Exception):
                failed.append(path)
            else:
                results[path] = result
    return results, failed


def _unreadable(failed: Sequence[Path], total: int, folder: Path) -> DataError:
    names = ", ".join(path.relative_to(folder).as_posix() for path in failed[:_SHOWN])
    more = f" and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    return DataError(
        f"{len(failed)} of {total} images in {folder} cannot be read: {names}{more}; remove or replace them"
    )


def _check_one_size(sizes: Sequence[tuple[int, int]], folder: Path) -> None:
    common = Counter(sizes).most_common(2)
    if len(common) > 1:
        (a, b), count = common[0][0], len(set(sizes))
        c, d = common[1][0]
        raise DataError(
            f"the images in {folder} have {count} sizes, such as {a}×{b} and {c}×{d} (height×width); "
            "pass --resolution to crop and resize them to one"
        )


def _classes(parts: Sequence[tuple[str, ...]]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels from the sub-folders of the first level: int64 [N] and their names, or nothing if a picture is in none."""
    if any(len(part) < 2 for part in parts):
        return None, None
    names = tuple(sorted({part[0] for part in parts}))
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[part[0]] for part in parts], np.int64), names
