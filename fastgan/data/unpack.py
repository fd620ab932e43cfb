"""Convert the files of an unpacked package to arrays, one function for each set. Checksums are verified before."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fastgan.data import pixels
from fastgan.data.arrays import read_idx

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LANDSCAPE_SIZE = (256, 512)  # height, width; the photographs are 720 × 1440


class Unpacked(NamedTuple):
    """splits: name → (images uint8 [N, C, H, W], labels int64 [N]); "main" is opened by the set's name alone.

    picture_names: the source file of each image of the main split, where licenses differ or images form pairs.
    """

    splits: dict[str, tuple[np.ndarray, np.ndarray]]
    class_names: tuple[str, ...]
    picture_names: tuple[str, ...] | None = None


def mnist(folder: Path, suffix: str, class_names: tuple[str, ...]) -> Unpacked:
    """The four IDX files of MNIST and of sets in the same layout."""

    def split(stem: str) -> tuple[np.ndarray, np.ndarray]:
        images = read_idx(folder / f"{stem}-images-idx3-ubyte{suffix}")[:, None]
        return images, read_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}").astype(np.int64)

    return Unpacked({"main": split("train"), "test": split("t10k")}, class_names)


def cifar10(roots: Sequence[Path]) -> Unpacked:
    """PNG sheets of 10,000 rows and 1,024 columns: each row is one image, its pixels in row-major order."""
    folder = roots[0] / "package"

    def split(sheets: Sequence[str], labels: str) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.asarray(Image.open(folder / sheet)).reshape(-1, 32, 32, 3) for sheet in sheets]
        images = np.ascontiguousarray(np.concatenate(rows).transpose(0, 3, 1, 2))
        return images, np.array(json.loads((folder / labels).read_text()), np.int64)

    train = split([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json")
    return Unpacked({"main": train, "test": split(["test_batch.png"], "test_lables.json")}, CIFAR10_CLASSES)


def emoji(roots: Sequence[Path]) -> Unpacked:
    """Two vendors' drawings of the same emoji in the same order: the names that both have, labeled by category."""
    categories = {}
    for entry in json.loads((roots[0] / "package/emoji.json").read_text(encoding="utf-8")):
        for drawing in (entry, *entry.get("skin_variations", {}).values()):
            categories[drawing["image"]] = entry["category"]
    folders = {
        split: root / "package/img" / vendor / "64"
        for root, (split, vendor) in zip(roots, {"main": "twitter", "google": "google"}.items(), strict=True)
    }
    both = set.intersection(*({path.name for path in folder.glob("*.png")} for folder in folders.values()))
    names = sorted(both & set(categories))
    class_names = tuple(sorted(set(categories.values())))
    labels = np.array([class_names.index(categories[name]) for name in names], np.int64)
    with pixels.pool() as workers:
        splits = {
            split: (np.stack(list(workers.map(lambda n, f=folder: pixels.decode(f / n, 3, None), names))), labels)
            for split, folder in folders.items()
        }
    return Unpacked(splits, class_names, tuple(names))


def landscapes(folder: Path) -> Unpacked:
    """Photographs labeled by the first word of their file names: mountain12-someone@2x.jpg is a mountain."""
    paths = sorted(folder.glob("*.jpg"))
    groups = [re.split(r"[^a-z]", path.name)[0] for path in paths]
    class_names = tuple(sorted(set(groups)))
    height, width = LANDSCAPE_SIZE

    def shrink(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(small).transpose(2, 0, 1)

    with pixels.pool() as workers:
        images = np.stack(list(workers.map(shrink, paths)))
    labels = np.array([class_names.index(group) for group in groups], np.int64)
    return Unpacked({"main": (images, labels)}, class_names, tuple(path.name for path in paths))
