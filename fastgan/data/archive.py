"""A zip of pictures as a source, read without unpacking it: StyleGAN's, with labels in dataset.json, or any other."""

from __future__ import annotations

import re
import zipfile
import zlib
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, cast

from fastgan.data.listing import (
    DATASET_JSON,
    SUFFIXES,
    Classes,
    Listing,
    Source,
    folder_classes,
    json_labels,
    json_states_labels,
    no_images,
)
from fastgan.errors import DataError

_BUCKET = re.compile(r"\d{5}")  # StyleGAN's tools put each thousand images into a folder of such a name
_ENCRYPTED = 1  # the bit of a member's flags
_LARGEST = 1 << 30  # bytes of one encoded picture: no real one has more, and a member may claim anything


def zip_source(path: Path) -> Source:
    """Every picture in a zip, in the order of their paths; hidden members are passed over.

    Labels are those of dataset.json, where it has the key "labels" (null: no labels). In a zip without, the folders of
    the first level (below any that all pictures share) are the classes if all pictures lie in such folders, unless
    these have StyleGAN's names of five digits, which mean nothing.
    """
    return Source(str(path), path.stem, [path], lambda stack: _read(path, stack))


def _read(path: Path, stack: ExitStack) -> Listing:
    try:
        # A file of our own, for ZipFile counts the readers of one that it opened itself, and that from one thread.
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(path.open("rb"))))
        members = {member.filename: member for member in archive.infolist() if _wanted(member)}
        names = sorted((name for name in members if name.lower().endswith(SUFFIXES)), key=lambda n: n.split("/"))
        if not names:
            raise no_images(SUFFIXES, str(path), [name.rpartition("/")[2] for name in members])
        if any(members[name].flag_bits & _ENCRYPTED for name in names):
            raise DataError(f"{path} is encrypted; unpack it with its password and give the folder")
        labels, class_names = _classes(archive, names, path)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(f"{path} is not a readable zip file ({error}); get it again") from error

    def open_member(i: int) -> BinaryIO:
        member = members[names[i]]
        if member.file_size > _LARGEST:
            raise ValueError(f"{names[i]} claims {member.file_size:,} bytes")
        return cast(BinaryIO, archive.open(member))

    return Listing(names, open_member, labels, class_names)


def _wanted(member: zipfile.ZipInfo) -> bool:
    parts = member.filename.split("/")  # macOS adds a folder __MACOSX of hidden files
    return not member.is_dir() and parts[0] != "__MACOSX" and not any(part.startswith(".") for part in parts)


def _classes(archive: zipfile.ZipFile, names: list[str], path: Path) -> Classes:
    folders = [name.split("/")[:-1] for name in names]
    ends = zip(min(folders), max(folders), strict=False)  # what the first and the last share, all share
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], ends)]
    inside = [tuple(name.split("/")[len(shared) :]) for name in names]
    for prefix in ("".join(f"{part}/" for part in shared[:depth]) for depth in range(len(shared) + 1)):
        if prefix + DATASET_JSON in archive.namelist():
            content, where = archive.read(prefix + DATASET_JSON), f"{path}/{prefix}{DATASET_JSON}"
            if json_states_labels(content, where):
                return json_labels(content, [name[len(prefix) :] for name in names], where), None
    if all(_BUCKET.fullmatch(parts[0]) for parts in inside):
        return None, None
    return folder_classes(inside)
