"""Public image sets, downloaded as packages into the user's cache: checksums verified, unpacked to arrays, stored as a
pack."""

from __future__ import annotations

import difflib
import logging
from contextlib import ExitStack
from pathlib import Path

from fastgan._util.cache import require_writable
from fastgan._util.env import cache_dir
from fastgan._util.locks import locked
from fastgan._util.packages import copy_notice, downloaded, replacing_folder
from fastgan.data.catalog import KNOWN, Known
from fastgan.data.pack import check_pack, write_pack
from fastgan.errors import DataError, UsageError

_logger = logging.getLogger(__name__)


def known() -> dict[str, Known]:
    """The sets that `fetch` knows, by name."""
    return dict(KNOWN)


def set_dir(name: str) -> Path:
    """The cache folder of a set. It is created by a rename, so it exists only once it is complete."""
    return cache_dir() / "data" / name


def fetch(name: str) -> Path:
    """Fetch a set with all its splits into the cache and return its folder.

    A set that is already in the cache is compared with its checksums, and fetched again where it is damaged. Licenses
    are logged. Raises UsageError for an unknown name, DataError where downloading, checking or packing fails; the cache
    is then unchanged.
    """
    entry = KNOWN.get(name.partition(":")[0])
    if entry is None:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(KNOWN)}"
        raise UsageError(f"name: expected the name of a set that can be fetched, got {name!r}; {hint}")
    target = set_dir(entry.name)
    for source, split in zip(entry.sources, entry.splits.values(), strict=True):
        _logger.info("%s: %s images, license: %s", source, f"{split.count:,}", split.license)
    if target.exists():
        try:
            check_pack(target, entry.splits)
        except DataError as error:
            _logger.info("the set in %s is damaged (%s); fetching it again", target, error.__cause__)
        else:
            _logger.info("already fetched and verified: %s", target)
            return target
    try:
        require_writable(target.parent)
        with locked(target.parent):
            if not _is_intact(target, entry):  # another process may have fetched it meanwhile
                _fetch_into(target, entry)
    except OSError as error:
        raise DataError(
            f"{entry.name} cannot be stored in {target}: {error}; set FASTGAN_CACHE to another directory"
        ) from error
    _logger.info("packed into %s", target)
    return target


def _is_intact(target: Path, entry: Known) -> bool:
    try:
        check_pack(target, entry.splits)
    except DataError:
        return False
    return True


def _fetch_into(target: Path, entry: Known) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(replacing_folder(target))
        roots, packages = [], []
        for package in entry.packages:
            root, version = stack.enter_context(downloaded(package))
            roots.append(root)
            packages.append({"client": package.client, "name": package.name, "version": version})
            copy_notice(package, root, folder)
        write_pack(folder, entry, entry.unpack(roots), packages)
