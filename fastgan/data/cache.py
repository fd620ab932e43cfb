"""What was decoded once and is opened ever after: packs of folders and archives in the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastgan._util.env import cache_dir
from fastgan.data.build import build, describe_skipped
from fastgan.data.imageset import NOT_STATED, ImageSet
from fastgan.data.listing import Source
from fastgan.data.pack import META, open_pack, split_facts, write_meta
from fastgan.errors import DataError

FORMAT = 1  # of the packs, and of how pictures are decoded: a higher number has all packs built anew


def packs_dir() -> Path:
    """Where the packs lie, each a folder that has its name once it is whole. All of it may be deleted at any time."""
    return cache_dir() / "packs"


def open_packed(source: Source, resolution: int | None, channels: int | None) -> ImageSet:
    """Open the pack of a source as a read-only memory map; build it first where there is none yet, or a damaged one.

    Processes that want the same pack at once wait for the first of them. Raises DataError, and leaves nothing behind.
    """
    asked = {
        "path": os.path.abspath(source.path),
        "resolution": resolution,
        "channels": channels,
        "format": FORMAT,
    }
    folder = packs_dir() / _key(source, asked)
    opened = _try(folder)
    if opened is not None:
        return opened
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder, f"another process is packing {source.path}; waiting for it") as alone:
            opened = _try(folder)
            if opened is not None:
                return opened
            if alone:
                _remove_dead(folder.parent, folder.name)
            skipped = _build_into(folder, source, asked)
    except OSError as error:
        raise DataError(
            f"{source.path} cannot be packed into {folder.parent}: {error}; set FASTGAN_CACHE to another place"
        ) from error
    opened = open_pack(folder)
    if skipped:
        listed = describe_skipped(skipped, len(skipped) + len(opened), source.path)
        warnings.warn(f"{listed}; they are left out (all are named in {folder / META})", UserWarning, stacklevel=3)
    return opened


def _key(source: Source, asked: dict[str, Any]) -> str:
    """A name that changes with the format, the arguments, and the name, size and time of any of the source's files."""
    files: list[tuple[str, int | None, int | None]] = []
    for path in source.files:
        try:
            facts = path.stat()
            files.append((os.path.abspath(path), facts.st_size, facts.st_mtime_ns))
        except OSError:  # a link to nothing: a picture that cannot be read
            files.append((os.path.abspath(path), None, None))
    # ASCII alone: a file's name need not be valid text.
    return hashlib.sha256(json.dumps([asked, files], ensure_ascii=True).encode()).hexdigest()[:32]


def _try(folder: Path) -> ImageSet | None:
    if not folder.is_dir():
        return None
    try:
        return open_pack(folder)
    except DataError as error:
        print(f"the pack in {folder} is damaged ({error.__cause__}): building it again", file=sys.stderr)
        return None


def _build_into(folder: Path, source: Source, asked: dict[str, Any]) -> list[str]:
    """Build aside and rename into place, and return the names of what cannot be read."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        aside.mkdir()
        built = build(source, aside, asked["resolution"], asked["channels"])
        meta = {
            "name": source.name,
            "class_names": built.class_names,
            "source": asked,
            "splits": {"main": split_facts(aside, "main", built.shape, NOT_STATED)},
            "skipped": built.skipped,
        }
        write_meta(aside, meta)
        _remove_outdated(folder, asked)
        try:
            aside.rename(folder)
        except OSError:
            # Without locks another process may have been first: its pack is as good as ours. Else it is a damaged one.
            if _try(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
                aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return built.skipped


def _remove_outdated(folder: Path, asked: dict[str, Any]) -> None:
    """Remove the packs of what the source was before its files changed: nobody can open them any more."""
    for other in folder.parent.glob("[!.]*"):
        try:
            outdated = other != folder and json.loads((other / META).read_text(encoding="utf-8"))["source"] == asked
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if outdated:
            shutil.rmtree(other, ignore_errors=True)
            other.with_name(f".{other.name}.lock").unlink(missing_ok=True)


@contextmanager
def _lock(folder: Path, waiting: str | None) -> Iterator[bool]:
    """Hold the lock of a pack: True. False where the system has no locks or, with waiting None, another holds it.

    waiting: said once where another process holds the lock, which is then waited for.
    """
    with folder.with_name(f".{folder.name}.lock").open("a") as file:
        alone = False
        try:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                if waiting is not None:
                    print(waiting, file=sys.stderr, flush=True)
                    fcntl.flock(file, fcntl.LOCK_EX)
                    alone = True
        except (ImportError, OSError):
            pass
        yield alone


def _remove_dead(parent: Path, own: str) -> None:
    """Remove what killed processes left: half a pack is dead when nobody holds its lock. We hold that of `own`."""
    for part in parent.glob(".*.part"):
        key = part.name.split(".")[1]
        if key == own:
            shutil.rmtree(part, ignore_errors=True)
            continue
        with _lock(part.with_name(key), None) as alone:
            if alone:
                shutil.rmtree(part, ignore_errors=True)
