"""What a source of pictures holds, before any of them is decoded: folders, zips and shards, told alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastgan.errors import DataError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
DATASET_JSON = "dataset.json"
_LARGEST = 1 << 63

Classes = tuple[np.ndarray | None, tuple[str, ...] | None]  # labels int64 [N] and the classes' names


@dataclass(frozen=True)
class Listing:
    """The pictures of a source in their order.

    names: as the user knows them. open: the encoded file of picture i, from its start; called from many threads.
    labels: int64 [N], or None. class_names: the name of each label, or None.
    """

    names: Sequence[str]
    open: Callable[[int], BinaryIO]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A source that has to be decoded.

    path: as the user gave it. name: of the ImageSet. files: all that a change of can change the pictures.
    read: makes the Listing; what must stay open while its pictures are read is entered into the stack.
    """

    path: str
    name: str
    files: Sequence[Path]
    read: Callable[[ExitStack], Listing]


def no_images(suffixes: Sequence[str], where: str, others: Sequence[str]) -> DataError:
    """The error of a source without pictures. others: the names of what it holds instead."""
    wanted = ", ".join(suffix.removeprefix(".") for suffix in suffixes)
    beside = f"; it holds other files, such as {min(others)}: convert them" if others else ""
    return DataError(f"no images ({wanted}) in {where}{beside}")


def folder_classes(parts: Sequence[tuple[str, ...]]) -> Classes:
    """Classes from the folders of the first level, or none where a picture is in no folder."""
    if any(len(part) < 2 for part in parts):
        return None, None
    names = tuple(sorted({part[0] for part in parts}))
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[part[0]] for part in parts], np.int64), names


def json_states_labels(content: bytes, where: str) -> bool:
    """Whether a dataset.json is one of StyleGAN's: an object with the key "labels". Raises DataError if not JSON."""
    return "labels" in _parse(content, where)


def json_labels(content: bytes, names: Sequence[str], where: str) -> np.ndarray | None:
    """The labels of StyleGAN's dataset.json, {"labels": [["00000/img00000000.png", 3], ...]} or {"labels": null}.

    names: paths of the pictures, as seen from the file. Labels of other paths are passed over.
    Raises DataError: a label that is no class number, a picture without one.
    """
    entries = _parse(content, where)["labels"]
    if entries is None:
        return None
    try:
        given = {str(name): label for name, label in entries}
    except (TypeError, ValueError):
        raise DataError(f'"labels" in {where} is not a list of [name, class number]; write it so, or null') from None
    missing = [name for name in names if name not in given]
    if missing:
        raise DataError(
            f"{where} has no label for {len(missing):,} of {len(names):,} images, such as {missing[0]}; "
            'add them, or write {"labels": null}'
        )
    return np.array([class_number(given[name], f"{name} in {where}") for name in names], np.int64)


def class_number(label: object, whose: str) -> int:
    """A label as a class number. Raises DataError for anything but a whole number from 0."""
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < _LARGEST:
        kind = "a list" if isinstance(label, list) else repr(label)
        raise DataError(f"the label of {whose} is {kind}; expected a class number: 0, 1, 2, ...")
    return label


def _parse(content: bytes, where: str) -> dict:
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); mend or remove it") from error
    return parsed if isinstance(parsed, dict) else {}
