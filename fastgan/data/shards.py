"""WebDataset shards as a source: tar files in which the files of a sample share their name up to the first dot."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastgan._util.schema import read_json
from fastgan.data.listing import SUFFIXES, Listing, Source, class_number, no_images
from fastgan.data.tar import tar_files
from fastgan.errors import DataError, UsageError, first_line

_IMAGES = tuple(suffix[1:] for suffix in (*SUFFIXES, ".ppm"))
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class _Member(NamedTuple):
    """The position of a file in a shard, from which its bytes are read without unpacking."""

    shard: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.shard.name}/{self.name}"


def are_shards(source: str | Path) -> bool:
    """Whether a source names shards: a .tar file, a pattern of them, or a folder that holds shards and neither images
    nor folders."""
    path = Path(source)
    if not path.is_dir():
        return path.suffix.lower() == ".tar" and (path.is_file() or _RANGE.search(str(source)) is not None)
    try:
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    except OSError:  # folder_source reports it
        return False
    if any(entry.is_dir() or entry.name.lower().endswith(SUFFIXES) for entry in entries):
        return False
    return any(entry.suffix.lower() == ".tar" for entry in entries)


def shard_source(path: Path) -> Source:
    """One shard, a pattern of numbered shards (train-{000000..000009}.tar), or a folder of them, in order.

    The image of a sample is its png, jpg, jpeg, webp, bmp or ppm file; its label is the number in its .cls file, or
    "label" in its .json. Samples without an image and all other files are skipped; nothing is unpickled.
    Raises DataError for a shard that is missing or damaged, two images in a sample, labels of only some samples.
    """
    shards = _shards(path)
    name = path.resolve().name if path.is_dir() else _RANGE.sub("", path.stem).strip("-_.") or "shards"
    return Source(str(path), name, shards, lambda _: _read(shards, path))


def _shards(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.suffix.lower() == ".tar" and entry.name[0] != ".")
    shards = []
    for name in _expand(str(path)):
        if not Path(name).is_file():
            raise DataError(f"{path} names {name}, which does not exist; download it or change the range")
        shards.append(Path(name))
    return shards


def _expand(pattern: str) -> Iterator[str]:
    """The file names of a pattern. As in a shell, numbers are zero-padded where those of the pattern are."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if int(first) > int(last):
        raise UsageError(f"source: expected an ascending range, got {found.group()} in {pattern!r}")
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    for number in range(int(first), int(last) + 1):
        yield from _expand(f"{pattern[: found.start()]}{number:0{width}}{pattern[found.end() :]}")


def _read(shards: list[Path], path: Path) -> Listing:
    images, labels, others = [], [], []
    for shard in shards:
        for sample in _samples(shard):
            image = _image_of(sample)
            if image is None:
                others += [part.name for part in sample.values()]
            else:
                images.append(image)
                labels.append(_label(sample))
    if not images:
        raise no_images(_IMAGES, str(path), others)
    missing = [image for image, label in zip(images, labels, strict=True) if label is None]
    if missing and len(missing) < len(images):
        raise DataError(
            f"{len(missing):,} of {len(images):,} samples in {path} have no label, such as {missing[0]}; "
            "label all of them or none"
        )
    return Listing(
        [str(image) for image in images],
        lambda i: io.BytesIO(images[i].read()),
        None if missing else np.array(labels, np.int64),
    )


def _samples(shard: Path) -> list[dict[str, _Member]]:
    """The samples of a shard in order of their first member: extension → file."""
    samples: dict[str, dict[str, _Member]] = {}
    try:
        for member in tar_files(shard):
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            if stem and extension:
                part = _Member(shard, *member)
                samples.setdefault(f"{folder}/{stem}", {})[extension.lower()] = part
    except (OSError, ValueError) as error:
        raise DataError(
            f"{shard} is not a complete, uncompressed tar file ({first_line(error)}); download it again, or"
            " decompress it"
        ) from error
    return list(samples.values())


def _image_of(sample: dict[str, _Member]) -> _Member | None:
    """The file whose extension is an image format; where there is none, the one whose last extension is."""
    found = [sample[extension] for extension in sample if extension in _IMAGES]
    found = found or [part for extension, part in sample.items() if extension.rpartition(".")[2] in _IMAGES]
    if len(found) > 1:
        raise DataError(
            f"{found[0]} and {found[1].name} are images of the same sample (same name up to the first dot); "
            "remove or rename one"
        )
    return found[0] if found else None


def _label(sample: dict[str, _Member]) -> int | None:
    if "cls" in sample:
        text = sample["cls"].read().decode(errors="replace").strip()
        digits = text.isascii() and text.isdigit() and len(text) < 20
        return class_number(int(text) if digits else text, str(sample["cls"]))
    if "json" not in sample:
        return None
    try:
        stated = read_json(sample["json"].read())
    except ValueError as error:
        raise DataError(f"{sample['json']} is not JSON ({error}); correct or remove it") from error
    if not isinstance(stated, dict) or stated.get("label") is None:
        return None
    return class_number(stated["label"], str(sample["json"]))
