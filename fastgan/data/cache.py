"""The pack cache: folders, zips and shards are decoded once, into packs in the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastgan._util.env import cache_dir
from fastgan._util.files import aside_folder, clean
from fastgan._util.locks import busy, locked
from fastgan.data.build import Built, build, describe_skipped
from fastgan.data.imageset import NOT_STATED, ImageSet
from fastgan.data.listing import Source
from fastgan.data.pack import FORMAT, META, open_pack, split_facts, write_meta
from fastgan.errors import DataError

_logger = logging.getLogger(__name__)


def packs_dir() -> Path:
    """The directory of the packs: each a folder, named by a hash once it is complete. May be deleted at any time."""
    return cache_dir() / "packs"


def open_packed(source: Source, resolution: int | None, channels: int | None) -> ImageSet:
    """Open the pack of a source as a read-only memory map; build it where it is missing, outdated or damaged.

    resolution, channels: as in `open_source`. Of several processes that need the same pack, the others wait for the
    first. Raises DataError where it cannot be built; temporary files are removed.
    """
    key = {
        "path": os.path.abspath(source.path),
        "resolution": resolution,
        "channels": channels,
        "format": FORMAT,
        **({"view": source.view} if source.view else {}),
        **({"tiles": list(source.tiles)} if source.tiles else {}),
    }
    folder = packs_dir() / _name(source, key)
    opened = _try(folder)
    if opened is not None:
        return opened
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder, f"another process is packing {source.path}; waiting for it"):
            opened = _try(folder)
            if opened is not None:
                return opened
            clean(folder.parent)
            built = _build_into(folder, source, key)
    except OSError as error:
        raise DataError(
            f"{source.path} cannot be packed into {folder.parent}: {error}; set FASTGAN_CACHE to another directory"
        ) from error
    opened = open_pack(folder)
    if built.skipped:
        listed = describe_skipped(built.skipped, built.pictures, source.path)
        warnings.warn(f"{listed}; they are left out ({folder / META} lists all)", UserWarning, stacklevel=3)
    return opened


def _name(source: Source, key: dict[str, Any]) -> str:
    """A hash of the arguments and of the path, size and modification time of each file of the source."""
    files: list[tuple[str, int | None, int | None]] = []
    for path in source.files:
        try:
            facts = path.stat()
            files.append((os.path.abspath(path), facts.st_size, facts.st_mtime_ns))
        except OSError:  # a dangling symbolic link: an image that cannot be read
            files.append((os.path.abspath(path), None, None))
    # ASCII: file names need not be valid Unicode.
    return hashlib.sha256(json.dumps([key, files], ensure_ascii=True).encode()).hexdigest()[:32]


def _try(folder: Path) -> ImageSet | None:
    if not folder.is_dir():
        return None
    try:
        opened = open_pack(folder)
        # One that was copied or renamed is of other files.
        of = json.loads((folder / META).read_text(encoding="utf-8")).get("pack")
        problem: object = None if of == folder.name else f"it is the pack {of}"
    except DataError as error:
        problem = error.__cause__
    if problem is not None:
        _logger.info("the pack in %s is damaged (%s); building it again", folder, problem)
        return None
    return opened


def _build_into(folder: Path, source: Source, key: dict[str, Any]) -> Built:
    """Build in a temporary folder and rename it."""
    with aside_folder(folder) as temporary:
        built = build(source, temporary, key["resolution"], key["channels"])
        meta = {
            "name": source.name,
            "pack": folder.name,
            "class_names": built.class_names,
            "source": key,
            "splits": {"main": split_facts(temporary, "main", built.shape, NOT_STATED)},
            "skipped": built.skipped,
            "why_unlabeled": built.why_unlabeled,
            **({"tiles_of_pictures": built.tiles} if source.tiles else {}),
        }
        write_meta(temporary, meta)
        _remove_outdated(folder, key)
        try:
            temporary.rename(folder)
        except OSError:
            # Without file locks another process may have built the same pack meanwhile. Otherwise it is a damaged one.
            if _try(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
    return built


def _remove_outdated(folder: Path, key: dict[str, Any]) -> None:
    """Remove packs of the same source and arguments, made before its files or the format changed."""
    for other in folder.parent.glob("[!.]*"):
        try:
            made_from = json.loads((other / META).read_text(encoding="utf-8"))["source"]
            outdated = other != folder and {**made_from, "format": FORMAT} == key
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if outdated:
            shutil.rmtree(other, ignore_errors=True)
            other.with_name(f".{other.name}.lock").unlink(missing_ok=True)


@contextmanager
def _lock(folder: Path, waiting: str) -> Iterator[None]:
    """Hold the file lock of a pack. waiting: logged where another process holds it, which is then waited for."""
    path = folder.with_name(f".{folder.name}.lock")
    if busy(path):
        _logger.info("%s", waiting)
    with locked(path):
        yield
