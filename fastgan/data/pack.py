"""A fetched set on disk: `images.npy` (uint8 [N, C, H, W]), `labels.npy` (int64 [N]) and `meta.json` in one folder.

Splits other than the main one lie beside it as `SPLIT_images.npy` and `SPLIT_labels.npy`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastgan.data.catalogue import MAIN, Known
from fastgan.data.imageset import ImageSet
from fastgan.data.unpack import Unpacked
from fastgan.errors import DataError, UsageError

META = "meta.json"


def write_pack(folder: Path, entry: Known, unpacked: Unpacked, packages: Sequence[Mapping[str, str]]) -> None:
    """Write the arrays and what is to be known of them into an existing folder.

    packages: client, name and version of each source. Raises DataError where a split is not what `entry` says.
    """
    splits = {}
    for name, split in entry.splits.items():
        images, labels = unpacked.splits[name]
        if images.shape != (split.count, *entry.shape) or labels.shape != (split.count,):
            came, expected = list(images.shape), [split.count, *entry.shape]
            raise DataError(f"{entry.name}: expected images {expected} and as many labels, got {came}, {len(labels)}")
        paths = _paths(folder, name)
        for path, array in zip(paths, (images, labels), strict=True):
            np.save(path, np.ascontiguousarray(array), allow_pickle=False)
        splits[name] = {
            "count": split.count,
            "shape": list(images.shape),
            "licence": split.licence,
            "files": {path.name: file_sha256(path) for path in paths},
        }
    meta = {
        "name": entry.name,
        "class_names": list(unpacked.class_names),
        "packages": [dict(package) for package in packages],
        "splits": splits,
        "picture_names": unpacked.picture_names,
    }
    (folder / META).write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def open_pack(folder: Path, split: str = MAIN) -> ImageSet:
    """Open a split of a packed set, images as a read-only memory map. Raises DataError where the pack is damaged."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        facts = meta["splits"][split]
        images_path, labels_path = _paths(folder, split)
        images = np.load(images_path, mmap_mode="r", allow_pickle=False)
        labels = np.load(labels_path, allow_pickle=False)
        if list(images.shape) != facts["shape"]:
            raise ValueError(f"{images_path.name} has shape {list(images.shape)}, expected {facts['shape']}")
        name = meta["name"] if split == MAIN else f"{meta['name']}:{split}"
        return ImageSet(images, labels, name, facts["licence"], tuple(meta["class_names"]))
    except (OSError, EOFError, ValueError, LookupError, TypeError, UsageError) as error:
        raise DataError(
            f"the fetched set in {folder} is damaged ({error}); run `fastgan data fetch {folder.name}` to mend it"
        ) from error


def check_pack(folder: Path, entry: Known) -> None:
    """Compare every array file with its checksum, and the splits with `entry`. Raises DataError."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        for name in entry.splits:
            for file, expected in meta["splits"][name]["files"].items():
                if file_sha256(folder / file) != expected:
                    raise ValueError(f"{file} does not have its checksum")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"the fetched set in {folder} is damaged ({error})") from error


def file_sha256(*paths: Path) -> str:
    """The SHA-256 of the files' contents, one after the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def _paths(folder: Path, split: str) -> tuple[Path, Path]:
    prefix = "" if split == MAIN else f"{split}_"
    return folder / f"{prefix}images.npy", folder / f"{prefix}labels.npy"
