"""A folder of pictures as a source."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from fastgan.data.listing import (
    DATASET_JSON,
    SUFFIXES,
    Listing,
    Source,
    folder_classes,
    json_labels,
    json_states_labels,
    no_images,
)
from fastgan.errors import DataError


def folder_source(folder: Path) -> Source:
    """Every picture below `folder`, in the order of their paths; hidden files and folders are passed over.

    Where all pictures lie in sub-folders, those of the first level are the classes, unless a dataset.json with
    "labels" lies in the folder, as StyleGAN's tools write it. Raises DataError where there are no pictures.
    """
    paths = _find(folder)
    stated = folder / DATASET_JSON
    described = [stated] if stated.is_file() else []

    def read(_: ExitStack) -> Listing:
        parts = [path.relative_to(folder).parts for path in paths]
        names = ["/".join(part) for part in parts]
        labels, class_names = folder_classes(parts)
        for file in described:
            content = _bytes(file)
            if json_states_labels(content, str(file)):
                labels, class_names = json_labels(content, names, str(file)), None
        return Listing(names, lambda i: paths[i].open("rb"), labels, class_names)

    return Source(str(folder), folder.resolve().name, [*paths, *described], read)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _find(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted by path. Linked folders are followed, each once."""
    found: list[Path] = []
    others: list[str] = []
    seen: set[str] = set()

    def stop(error: OSError) -> None:  # the default is to pass over what may not be read
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    for here, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = sorted(
            name for name in folders if name[0] != "." and os.path.realpath(os.path.join(here, name)) not in seen
        )
        for name in files:
            if name[0] == ".":
                continue
            if name.lower().endswith(SUFFIXES):
                found.append(Path(here, name))
            else:
                others.append(name)
    if not found:
        raise no_images(SUFFIXES, str(folder), others)
    return sorted(found, key=lambda path: path.relative_to(folder).parts)
