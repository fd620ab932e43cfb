"""fastgan data, fastgan doctor: what there is to train on, and on what."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from fastgan.cli._parse import parse
from fastgan.errors import UsageError


@dataclass
class _Info:
    """Describe a data source as training would see it."""

    resolution: int | None = None
    """crop and resize to this side"""
    channels: int | None = None
    """1 for gray, 3 for color"""
    out: Path | None = field(default=None)
    """write a grid of the first 64 images here"""


def data(argv: list[str]) -> None:
    """fastgan data list | fetch NAME | info SOURCE"""
    from fastgan import data as sets
    from fastgan.data.fetch import set_dir
    from fastgan.data.pack import check_pack

    usage = "data: expected list, fetch NAME or info SOURCE"
    if argv[:1] in (["-h"], ["--help"]):
        print("usage: fastgan data list | fetch NAME | info SOURCE [--resolution N] [--channels 1|3] [--out GRID.png]")
        print("\nSOURCE is a name in the list, or a path: a folder or a .zip of images, with or without dataset.json;")
        print("WebDataset shards such as train-{000000..000009}.tar; .npz; IDX. Folders, zips and shards are decoded")
        print("once, into a pack; info says where it lies, and compares its checksums.")
    elif argv[:1] == ["list"]:
        print("embedded      10,000 images 1×28×28, the Fashion-MNIST test file, inside the package")
        for name, entry in sets.known().items():
            state = "fetched" if set_dir(name).exists() else f"fastgan data fetch {name} ({entry.megabytes:.0f} MB)"
            print(f"{name:13} {entry.summary}; {state}")
    elif argv[:1] == ["fetch"] and len(argv) == 2:
        sets.fetch(argv[1])
    elif argv[:1] == ["info"] and len(argv) >= 2 and not argv[1].startswith("-"):
        options = parse(_Info, argv[2:], "data info SOURCE")
        images = sets.open_source(argv[1], resolution=options.resolution, channels=options.channels)
        print(images.describe())
        if images.pack is not None:
            check_pack(images.pack)
            print(f"pack     {images.pack}, checksum ok")
        if options.out is not None:
            from fastgan.report.images import save_grid

            print(f"grid: {save_grid(images.images[:64], options.out, scale=max(1, 64 // images.resolution[1]))}")
    else:
        raise UsageError(usage + (f", got {shlex.join(argv)!r}" if argv else ""))


@dataclass
class _Doctor:
    """Say what runs where on this machine, what is missing, and what it costs."""

    kernels: bool = False
    """list the kernels that were chosen by measurement, with their times, instead"""


def doctor(argv: list[str]) -> None:
    """fastgan doctor [--kernels]"""
    from fastgan.doctor import examine, kernel_choices

    print(kernel_choices() if parse(_Doctor, argv, "doctor").kernels else examine())
