"""Two sets of images that have nothing to do with each other, for unpaired translation."""

from __future__ import annotations

from pathlib import Path

from fastgan._util.env import user_path
from fastgan._util.options import option
from fastgan.data.imageset import ImageSet
from fastgan.data.sources import check_size, open_source
from fastgan.errors import DataError, UsageError

#: Sub-folders of one folder that hold both sets, first a, then b; the first are those of the public data sets.
FOLDERS = (("trainA", "trainB"), ("A", "B"), ("a", "b"))


def open_unpaired(
    source: str | Path,
    resolution: int | None = None,
    channels: int | None = None,
    *,
    target: str = "",
    source_channels: int | None = None,
) -> dict[str, ImageSet]:
    """Images of two domains: {"a": ImageSet, "b": ImageSet}, each of its own count, of one size.

    source: any source of images that `open_source` takes, with those of the other domain in `target`; or a folder with
    the sub-folders trainA and trainB (or A and B), as the public data sets have them.
    resolution: crops to the centered square and resizes to it; None keeps the size. channels, source_channels: 1 (gray)
    or 3 (RGB) converts the images of b, and of a; None keeps them.

    Raises UsageError for wrong arguments; DataError where the sizes of both differ.
    """
    check_size(resolution, channels)
    check_size(None, source_channels, "source_channels")
    both: tuple[str | Path, str | Path] = (source, target)
    if not target:
        both = _folders_in(source)
    a, b = (
        open_source(each, resolution=resolution, channels=wanted)
        for each, wanted in zip(both, (source_channels, channels), strict=True)
    )
    if a.resolution != b.resolution:
        (h, w), (height, width) = a.resolution, b.resolution
        raise DataError(
            f"{a.name} has images of {w}×{h} and {b.name} of {width}×{height} pixels (width×height); batches are of one"
            f" size: give {option('resolution')}"
        )
    return {"a": a, "b": b}


def _folders_in(source: str | Path) -> tuple[Path, Path]:
    """Sub-folders that hold the images of both domains."""
    if str(source):
        folder = user_path(source)
        for a, b in FOLDERS:
            if (folder / a).is_dir() and (folder / b).is_dir():
                return folder / a, folder / b
    raise UsageError(
        f"target: expected the images of the other domain, as {source} has no folders {FOLDERS[0][0]} and"
        f" {FOLDERS[0][1]}; give {option('data.target')}"
    )
