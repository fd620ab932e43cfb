"""fastgan translate: pictures from pictures with a network of image translation."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan._util.output import printable
from fastgan.cli._parse import parse
from fastgan.errors import DataError


@dataclass
class _Translate:
    """Translate a picture, or every picture of a folder, with a network from images to images of the same size: a
    checkpoint of CycleGAN, pix2pix or pix2pixHD (fastgan inspect FILE says what it is), or a file of fastgan export."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """weights or a run (FILE:G_A, RUN:a_to_b for one of several generators), a file of fastgan export, or a module
    (file.py:name)"""
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """image, or folder of images, whose names are kept"""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """file or folder to write"""
    size: int | None = None
    """reduce pictures whose longer side has more pixels to this one first; by default they keep their size"""
    overwrite: bool = False
    """replace existing files; otherwise those of a folder are skipped"""
    backend: str = "auto"
    """library that runs the network, by its name in `fastgan doctor`; auto: the fastest, by a measurement"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..."""
    trust: tyro.conf.FlagCreatePairsOff[bool] = False
    """open .pt2 files, whose native code runs with your rights: only those that you trust"""


def translate(argv: list[str]) -> None:
    """fastgan translate MODEL IN OUT [--size N] [--overwrite] ..."""
    options = parse(_Translate, argv, "translate")
    from fastgan.cli._source import model_of
    from fastgan.upscale.translation import Translated, check_translator, destination, jobs_of
    from fastgan.upscale.translation import translate as run
    from fastgan.upscale.upscaler import open_network_for_images

    source, out = options.source, options.out
    # Before the model is opened, which may take long.
    if source.is_dir():
        jobs_of(source, out, options.overwrite, Translated())
    else:
        destination(source, out, options.overwrite)
    session = open_network_for_images(
        model_of(options.model), check_translator, backend=options.backend, device=options.device, trust=options.trust
    )
    start = time.perf_counter()
    found = run(session, source, out, size=options.size, overwrite=options.overwrite)
    for note, count in found.notes.items():
        print(f"note: {note} ({count} images)", file=sys.stderr)
    for path, reason in found.failed:
        print(f"failed: {printable(path)}: {printable(reason)}", file=sys.stderr)
    skipped = f", {len(found.skipped)} skipped, which exist" if found.skipped else ""
    seconds = time.perf_counter() - start
    written = f"{len(found.written)} image{'s' if len(found.written) != 1 else ''}"
    print(f"{written} in {seconds:.1f} s{skipped} ({session.backend}, {session.provider}): {out}")
    if found.failed:
        raise DataError(f"{len(found.failed)} of the images could not be translated: {printable(found.failed[0][0])}")
