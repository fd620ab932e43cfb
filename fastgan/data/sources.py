"""`open_source`: an ImageSet from a name or a path."""

from __future__ import annotations

import difflib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastgan._util.env import user_path
from fastgan.data import pixels
from fastgan.data.arrays import read_idx, read_idx_images, read_npz
from fastgan.data.cache import open_packed
from fastgan.data.catalog import FASHION_CLASSES, FASHION_LICENSE, MAIN
from fastgan.data.fetch import known, set_dir
from fastgan.data.imageset import ImageSet
from fastgan.data.listing import SUFFIXES, Source, folder_source, zip_source
from fastgan.data.pack import open_pack
from fastgan.data.shards import are_shards, shard_source
from fastgan.errors import DataError, UsageError

EMBEDDED = "embedded"
_EMBEDDED_DIR = Path(__file__).parent / "embedded"
_MAX_SIDE = 65535  # pixels; the limit of JPEG
_NPY = b"\x93NUMPY"  # the first bytes of a .npy file


def open_source(
    source: str | Path = EMBEDDED, *, resolution: int | None = None, channels: int | None = None
) -> ImageSet:
    """Open images by name or by path.

    source: "embedded" (10,000 Fashion-MNIST test images, in the package); the name of a fetched set, or NAME:SPLIT
    (see `known`); a folder of images; a .zip of images, such as StyleGAN's with its dataset.json; WebDataset shards: a
    .tar file, a pattern of them (train-{000000..000009}.tar), a folder of them; an .npz file; an IDX file. The name of
    a set takes precedence over a path of the same name: write ./mnist for a folder.
    resolution: crop to the centered square and resize (Lanczos) to resolution × resolution; None keeps the size.
    channels: 1 (gray) or 3 (RGB) converts; None keeps them (a folder is gray where all its images are).

    Folders, zips and shards are decoded once, into a pack in the cache directory, and again when one of their files or
    an argument has changed. Images that cannot be read are left out with a UserWarning that lists them, and counted
    in `skipped`; more than half of them is an error.
    Returns an ImageSet of uint8 [N, C, H, W]; packs and unconverted fetched sets are read-only memory maps.
    Raises UsageError for a wrong argument, DataError for a source that cannot be used.
    """
    check_size(resolution, channels)
    if encoded := encoded_source(source):
        return open_packed(encoded, resolution, channels)
    named = _open_named(source) if isinstance(source, str) else None
    images = _open_file(user_path(source)) if named is None else named
    return replace(images, images=pixels.convert(images.images, resolution, channels))


def check_size(resolution: int | None, channels: int | None, name: str = "channels") -> None:
    """Raise UsageError for a resolution or a number of channels, whose argument is `name`, that no image can have."""
    if channels not in (None, 1, 3):
        raise UsageError(f"{name}: expected 1, 3 or None, got {channels!r}")
    if resolution is not None and (not isinstance(resolution, int) or not 1 <= resolution <= _MAX_SIDE):
        raise UsageError(f"resolution: expected an integer from 1 to {_MAX_SIDE}, or None, got {resolution!r}")


def encoded_source(source: str | Path) -> Source | None:
    """The source of encoded images at a path: a folder, zip or shards; None for array files and names of sets.

    Raises UsageError for an empty path, DataError for a folder without images.
    """
    if source == "":
        raise UsageError("source: expected a name or a path, got ''")
    if isinstance(source, str) and (source == EMBEDDED or source.partition(":")[0] in known()):
        return None
    path = user_path(source)
    if are_shards(path):
        return shard_source(path)
    if path.is_dir():
        return folder_source(path)
    return zip_source(path) if path.is_file() and _kind(path) == "zip" else None


def _open_named(source: str) -> ImageSet | None:
    if source == EMBEDDED:
        images = read_idx(_EMBEDDED_DIR / "t10k-images-idx3-ubyte.gz")[:, None]
        labels = read_idx(_EMBEDDED_DIR / "t10k-labels-idx1-ubyte.gz").astype(np.int64)
        return ImageSet(images, labels, EMBEDDED, FASHION_LICENSE, FASHION_CLASSES)
    name, _, split = source.partition(":")
    if name not in known():
        return None
    splits = known()[name].splits
    if (split or MAIN) not in splits:
        names = ", ".join(sorted(known()[name].sources))
        raise DataError(f"{name} has no split {split!r}; choose one of {names}")
    if not set_dir(name).is_dir():
        hint = f" (for the folder of that name, write ./{source})" if Path(source).exists() else ""
        raise DataError(f"{name} is not fetched yet: run `fastgan data fetch {name}`{hint}")
    return open_pack(set_dir(name), split or MAIN)


def _kind(path: Path) -> str:
    """ "npz", "zip" (of images), "npy" or "idx", by the content; what the content does not tell, by the name."""
    suffix = path.suffix.lower()
    by_name = suffix[1:] if suffix in (".npz", ".zip") else "idx"
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY))
            if start == _NPY:
                return "npy"
            if not start.startswith(b"PK"):
                return by_name
            with zipfile.ZipFile(file) as archive:
                names = [name.lower() for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):  # whoever reads it says so
        return by_name
    if any(name.endswith(SUFFIXES) for name in names):
        return "zip"
    return "npz" if any(name.endswith(".npy") for name in names) else by_name


def _open_file(path: Path) -> ImageSet:
    if not path.exists():
        names = [EMBEDDED, *(source for entry in known().values() for source in entry.sources)]
        near = difflib.get_close_matches(str(path), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"pass a path, or one of {', '.join(names)}"
        raise DataError(f"no such source: {str(path)!r}; {hint}")
    if path.suffix.lower() in SUFFIXES:
        raise DataError(f"{path} is a single image; pass the folder that holds the images")
    if (kind := _kind(path)) == "npy":
        raise DataError(f"{path} is a single array; save it as .npz: np.savez(FILE, images=array)")
    return read_npz(path) if kind == "npz" else read_idx_images(path)
