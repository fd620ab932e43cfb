"""Folders and zips of encoded images as sources: their files in order and their labels, before any is decoded.

Labels come from StyleGAN's dataset.json or from the names of sub-folders. shards.py lists WebDataset tar files the same
way.
"""

from __future__ import annotations

import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from fastgan._util.memory import require_memory
from fastgan._util.schema import read_json, shown
from fastgan.data.imageset import MAX_CLASSES
from fastgan.data.pixels import Header
from fastgan.data.tiles import Tiles
from fastgan.errors import DataError, first_line

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
DATASET_JSON = "dataset.json"
_DIGITS = re.compile(r"([0-9]+)")
_BUCKET = re.compile(r"\d{5}")  # StyleGAN's tools put each thousand images into a folder of such a name
_JSON_MEMORY = 16  # bytes for each byte of JSON: of small objects
_ENCRYPTED = 1  # bit of a zip member's flags
_MAX_FILE = 1 << 30  # bytes of one encoded image: real ones are smaller, and a zip member may claim any size

Classes = tuple[np.ndarray | None, tuple[str, ...] | None]  # labels int64 [N], names of the classes


@dataclass(frozen=True)
class Listing:
    """The images of a source in order.

    names: path of each image within the source, for messages. open: opens the encoded file of image i; called from
    several threads. labels: int64 [N], or None. class_names: the name of each label, or None. why_unlabeled: why there
    are no labels, where it is not plain, or "". check: called with the header of each readable image before any is
    decoded; raises DataError for one that does not fit.
    """

    names: Sequence[str]
    open: Callable[[int], BinaryIO]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    why_unlabeled: str = ""
    check: Callable[[int, Header], None] | None = None


@dataclass(frozen=True)
class Source:
    """A source of encoded images.

    path: as given by the user. name: of the resulting ImageSet. files: the files whose change invalidates a pack of
    this source. read: makes the Listing; files that must stay open while images are read are entered into the stack.
    view: "" for all images as they are; "left" or "right" for that half of each; another text names another selection
    or order of the images. Packs of different views are different packs. tiles: into which each image is cut, or None.
    """

    path: str
    name: str
    files: Sequence[Path]
    read: Callable[[ExitStack], Listing]
    view: str = ""
    tiles: Tiles | None = None


def no_images(suffixes: Sequence[str], where: str, others: Sequence[str]) -> DataError:
    """The error of a source without images. others: names of the other files in it."""
    expected = ", ".join(suffix.removeprefix(".") for suffix in suffixes)
    hint = f"; it holds other files, such as {min(others)}: convert them" if others else ""
    return DataError(f"no images ({expected}) in {where}{hint}")


def folder_classes(parts: Sequence[tuple[str, ...]]) -> Classes:
    """The folders of the first level as classes, in natural order; (None, None) where an image lies in no folder."""
    if any(len(part) < 2 for part in parts):
        return None, None
    names = tuple(sorted({part[0] for part in parts}, key=natural))
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[part[0]] for part in parts], np.int64), names


def natural(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """A key by which "2" comes before "10", and "class 9" before "class 10"."""
    parts: list[str | tuple[int, str]] = list(_DIGITS.split(name))
    for i in range(1, len(parts), 2):
        digits = str(parts[i]).lstrip("0")
        parts[i] = len(digits), digits
    return parts, name


def why_no_classes(parts: Sequence[tuple[str, ...]]) -> str:
    """Why folders are no classes where most images lie in some: images beside them; or ""."""
    loose = ["/".join(part) for part in parts if len(part) < 2]
    folders = {part[0] for part in parts if len(part) > 1}
    if not loose or len(folders) < 2:
        return ""
    more = f" and {len(loose) - 1:,} more" if len(loose) > 1 else ""
    return (
        f"{loose[0]}{more} beside the {len(folders):,} folders, such as {min(folders)!r}, lies in none of them; move it"
        " into one, or away, for folders to be classes"
    )


def json_states_labels(content: bytes, where: str) -> bool:
    """Whether a dataset.json is one of StyleGAN's: an object with the key "labels". Raises DataError if not JSON."""
    return "labels" in _parse(content, where)


def json_labels(content: bytes, names: Sequence[str], where: str) -> np.ndarray | None:
    """The labels of StyleGAN's dataset.json, {"labels": [["00000/img00000000.png", 3], ...]} or {"labels": null}.

    names: paths of the images relative to the file. Labels of other paths are ignored.
    Raises DataError for a label that is not a class number and for an image without a label.
    """
    entries = _parse(content, where)["labels"]
    if entries is None:
        return None
    try:
        label_of = {str(name): label for name, label in entries}
    except (TypeError, ValueError):
        raise DataError(f'"labels" in {where} is not a list of [name, class number]; write it so, or null') from None
    missing = [name for name in names if name not in label_of]
    if missing:
        raise DataError(
            f"{where} has no label for {len(missing):,} of {len(names):,} images, such as {missing[0]}; "
            'add them, or write {"labels": null}'
        )
    return np.array([class_number(label_of[name], f"{name} in {where}") for name in names], np.int64)


def class_number(label: object, whose: str) -> int:
    """The label of image `whose` as a class number. Raises DataError for anything but an integer from 0."""
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < MAX_CLASSES:
        kind = "a list" if isinstance(label, list) else shown(label)
        raise DataError(f"the label of {whose} is {kind}; expected a class number: 0, 1, 2, ... below {MAX_CLASSES:,}")
    return label


def _parse(content: bytes, where: str) -> dict:
    try:
        parsed = read_json(content)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); correct or remove it") from error
    return parsed if isinstance(parsed, dict) else {}


def folder_source(folder: Path) -> Source:
    """All images below `folder`, sorted by path; hidden files and folders are skipped.

    Where all images lie in sub-folders, those of the first level are the classes, unless the folder has a dataset.json
    with "labels", as StyleGAN's tools write it. Raises DataError where there are no images.
    """
    paths = _image_paths(folder)
    json_files = [folder / DATASET_JSON] if (folder / DATASET_JSON).is_file() else []

    def read(_: ExitStack) -> Listing:
        parts = [path.relative_to(folder).parts for path in paths]
        names = ["/".join(part) for part in parts]
        labels, class_names = folder_classes(parts)
        why = why_no_classes(parts)
        for file in json_files:
            content = _bytes(file)
            if json_states_labels(content, str(file)):
                labels, class_names, why = json_labels(content, names, str(file)), None, ""
        return Listing(names, lambda i: paths[i].open("rb"), labels, class_names, why)

    return Source(str(folder), folder.resolve().name, [*paths, *json_files], read)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _image_paths(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path. Symbolic links to folders are followed, each once."""
    found: list[Path] = []
    others: list[str] = []
    seen: set[str] = set()

    def stop(error: OSError) -> None:  # by default os.walk skips unreadable folders
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


def zip_source(path: Path) -> Source:
    """All images in a zip, sorted by path, read without unpacking it; hidden members are skipped.

    Labels are those of dataset.json, where it has the key "labels" (null: no labels). In a zip without one, the folders
    of the first level (below any that all images share) are the classes if all images lie in such folders, unless they
    have StyleGAN's bucket names of five digits.
    """
    return Source(str(path), path.stem, [path], lambda stack: _list_zip(path, stack))


def _list_zip(path: Path, stack: ExitStack) -> Listing:
    try:
        # Opened here: ZipFile's reference count of a file that it opened itself is not thread-safe.
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(path.open("rb"))))
        # Some programs for Windows write backslashes.
        every = {member.filename.replace("\\", "/"): member for member in archive.infolist()}
        members = {name: member for name, member in every.items() if _is_visible(name)}
        names = sorted((name for name in members if name.lower().endswith(SUFFIXES)), key=lambda n: n.split("/"))
        if not names:
            raise no_images(SUFFIXES, str(path), [name.rpartition("/")[2] for name in members])
        if any(members[name].flag_bits & _ENCRYPTED for name in names):
            raise DataError(f"{path} is encrypted; unpack it and pass the folder")
        labels, class_names, why = _zip_classes(archive, every, names, path)
    # Of encrypted members (RuntimeError), unknown compression (NotImplementedError), names that are not UTF-8, ...
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is not a readable zip file ({first_line(error)}); download it again") from error

    def open_member(i: int) -> BinaryIO:
        member = members[names[i]]
        if member.file_size > _MAX_FILE:
            raise ValueError(f"{names[i]} claims {member.file_size:,} bytes")
        return cast(BinaryIO, archive.open(member))

    return Listing(names, open_member, labels, class_names, why)


def _is_visible(name: str) -> bool:
    parts = name.split("/")  # macOS adds a folder __MACOSX of hidden files
    return parts[-1] != "" and parts[0] != "__MACOSX" and not any(part.startswith(".") for part in parts)


def _zip_classes(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], names: list[str], path: Path
) -> tuple[np.ndarray | None, tuple[str, ...] | None, str]:
    """Labels, names of the classes, and why there are none. members: by path with slashes."""
    folders = [name.split("/")[:-1] for name in names]
    # A common prefix of the smallest and the largest path is common to all.
    pairs = zip(min(folders), max(folders), strict=False)
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    inside = [tuple(name.split("/")[len(shared) :]) for name in names]
    for prefix in ("".join(f"{part}/" for part in shared[:depth]) for depth in range(len(shared) + 1)):
        if member := members.get(prefix + DATASET_JSON):
            where = f"{path}/{prefix}{DATASET_JSON}"
            require_memory(_JSON_MEMORY * member.file_size, f"reading {where}")
            content = archive.read(member)
            if json_states_labels(content, where):
                return json_labels(content, [name[len(prefix) :] for name in names], where), None, ""
    if all(_BUCKET.fullmatch(parts[0]) for parts in inside):
        return None, None, ""
    return *folder_classes(inside), why_no_classes(inside)
