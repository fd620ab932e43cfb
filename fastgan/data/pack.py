"""A pack, the form of an image set on disk: `images.npy` (uint8 [N, C, H, W]), `labels.npy` (int64 [N], if any) and
`meta.json` in one folder.

Fetched sets are packs, and folders, zips and shards are decoded into one (`cache.py`). Splits other than the main one
are `SPLIT_images.npy` and `SPLIT_labels.npy` in the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgan._util.hashing import file_sha256
from fastgan.data.catalog import MAIN, Known
from fastgan.data.imageset import ImageSet
from fastgan.data.unpack import Unpacked
from fastgan.errors import DataError, UsageError

META = "meta.json"
FORMAT = 2  # of meta.json and of how images are decoded: packs of another format are built or fetched again
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError)  # raised while a damaged meta.json is read


def write_pack(folder: Path, entry: Known, unpacked: Unpacked, packages: Sequence[Mapping[str, str]]) -> None:
    """Write the arrays and meta.json of a fetched set into an existing folder.

    packages: client, name and version of each source. Raises DataError where a split differs from what `entry` states.
    """
    splits = {}
    for name, split in entry.splits.items():
        images, labels = unpacked.splits[name]
        if images.shape != (split.count, *entry.shape) or labels.shape != (split.count,):
            found, expected = list(images.shape), [split.count, *entry.shape]
            raise DataError(f"{entry.name}: expected images {expected} and as many labels, got {found}, {len(labels)}")
        for path, array in zip(paths_in(folder, name), (images, labels), strict=True):
            np.save(path, np.ascontiguousarray(array), allow_pickle=False)
        splits[name] = split_facts(folder, name, images.shape, split.license)
    meta = {
        "name": entry.name,
        "class_names": list(unpacked.class_names),
        "packages": [dict(package) for package in packages],
        "splits": splits,
        "picture_names": unpacked.picture_names,
    }
    write_meta(folder, meta)


def split_facts(folder: Path, split: str, shape: Sequence[int], license: str) -> dict[str, Any]:
    """The entry of meta.json for a split whose files are written: count, shape, license, checksums."""
    files = {path.name: file_sha256(path) for path in paths_in(folder, split) if path.exists()}
    return {"count": shape[0], "shape": list(shape), "license": license, "files": files}


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write meta.json with the keys of `meta`: name, class_names, splits (see `split_facts`), and any others."""
    # As ASCII: names of files need not be valid Unicode.
    (folder / META).write_text(json.dumps({"format": FORMAT, **meta}, indent=2) + "\n", encoding="utf-8")


def open_pack(folder: Path, split: str = MAIN) -> ImageSet:
    """Open a split of a pack, images as a read-only memory map. Raises DataError where the pack is damaged.

    Sizes and shapes are compared; checksums are not, for that would read the whole set (see `check_pack`).
    """
    try:
        meta = _read_meta(folder)
        facts = meta["splits"][split]
        images_path, labels_path = paths_in(folder, split)
        images = np.load(images_path, mmap_mode="r", allow_pickle=False)
        labels = np.load(labels_path, allow_pickle=False) if labels_path.name in facts["files"] else None
        if list(images.shape) != facts["shape"]:
            raise ValueError(f"{images_path.name} has shape {list(images.shape)}, expected {facts['shape']}")
        if (size := images_path.stat().st_size) != images.offset + images.nbytes:
            raise ValueError(f"{images_path.name} has {size} bytes, expected {images.offset + images.nbytes}")
        name = meta["name"] if split == MAIN else f"{meta['name']}:{split}"
        class_names = None if meta["class_names"] is None else tuple(meta["class_names"])
        skipped = len(meta.get("skipped", ()))
        why = str(meta.get("why_unlabeled", ""))
        tiles = meta.get("tiles_of_pictures")
        pictures = None if tiles is None else np.repeat(np.arange(len(tiles)), tiles)
        if pictures is not None and len(pictures) != len(images):
            raise ValueError(f"it has {len(pictures)} tiles of pictures, expected {len(images)}")
        return ImageSet(images, labels, name, facts["license"], class_names, skipped, folder, why, pictures)
    except (*_DAMAGE, EOFError, UsageError) as error:
        raise _damaged(folder, error) from error


def check_pack(folder: Path, splits: Collection[str] = (MAIN,)) -> None:
    """Compare every array file with its checksum. Raises DataError where one differs, or one of `splits` is missing."""
    try:
        meta = _read_meta(folder)
        for name in {*splits, *meta["splits"]}:
            for file, expected in meta["splits"][name]["files"].items():
                if file_sha256(folder / file) != expected:
                    raise ValueError(f"the checksum of {file} is wrong")
    except _DAMAGE as error:
        raise _damaged(folder, error) from error


def _read_meta(folder: Path) -> dict[str, Any]:
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    if (found := meta.get("format")) != FORMAT:
        raise ValueError(f"expected format {FORMAT}, got {found}")
    return meta


def _damaged(folder: Path, error: Exception) -> DataError:
    fetched = folder.parent.name == "data"
    advice = f"run `fastgan data fetch {folder.name}` again" if fetched else "delete it; it is then packed again"
    return DataError(f"the set in {folder} is damaged ({error}); {advice}")


def paths_in(folder: Path, split: str = MAIN) -> tuple[Path, Path]:
    """The files of the images and of the labels of a split."""
    prefix = "" if split == MAIN else f"{split}_"
    return folder / f"{prefix}images.npy", folder / f"{prefix}labels.npy"
