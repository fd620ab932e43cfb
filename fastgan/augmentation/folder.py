"""A labeled set of real and generated images as a folder for each class."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastgan._util.files import aside_folder, failure, sync, write_whole
from fastgan._util.schema import read_json_file
from fastgan.errors import UsageError

REPORT = "augment.json"
#: The first words of files: real images, and generated ones.
REAL, GENERATED = "real", "generated"
_OWN = re.compile(rf"({REAL}|{GENERATED})\d{{5,}}\.png")
_KIND = "augmented set of images"


def check(out: Path, overwrite: bool) -> None:
    """Raise UsageError where `out` exists, unless it is empty, or `overwrite` is set and it holds nothing else than an
    earlier result."""
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise UsageError(f"out: expected a folder, {out} is none")
    others = [
        path for path in out.rglob("*") if not (path.is_dir() or _OWN.fullmatch(path.name) or path.name == REPORT)
    ]
    if others:
        raise UsageError(
            f"out: {out} has other files than those of an augmented set, such as {others[0].name}; choose another"
        )
    if not any(out.iterdir()):
        return
    if not _is_ours(out):
        raise UsageError(f"out: {out} is not empty, and no augmented set ({REPORT}); choose another")
    if not overwrite:
        raise UsageError(f"out: {out} exists; --overwrite replaces it")


def _is_ours(out: Path) -> bool:
    try:
        return bool(read_json_file(out / REPORT)["kind"] == _KIND)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def names_of(classes: Sequence[str]) -> list[str]:
    """The folders of classes: their names, without what a file system or the order of classes does not take."""
    names = [re.sub(r"[^\w +,()&'-]", "-", name).strip(" -")[:100] or "class" for name in classes]
    lower = [name.lower() for name in names]
    return [f"{name} {i}" if lower.count(name.lower()) > 1 else name for i, name in enumerate(names)]


def write(
    out: Path,
    folders: Sequence[str],
    parts: dict[str, tuple[np.ndarray, np.ndarray]],
    report: dict[str, Any],
) -> None:
    """Write images as PNG files and the report, the whole folder or nothing; what is there is replaced (see `check`).

    folders: for each class. parts: REAL and GENERATED, images uint8 [N, C, H, W] and labels int64 [N] of each.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with aside_folder(out) as temporary:
            for folder in folders:
                (temporary / folder).mkdir()
            for word, (images, labels) in parts.items():
                for label, folder in enumerate(folders):
                    for i, image in enumerate(images[labels == label]):
                        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
                        Image.fromarray(pixels).save(temporary / folder / f"{word}{i:05d}.png")
            write_report(temporary, report)
            with aside_folder(out) as earlier:
                if os.path.lexists(out):
                    os.rename(out, earlier)
                os.rename(temporary, out)
            sync(out.parent)
    except OSError as error:
        raise failure(out, error) from error


def write_report(out: Path, report: dict[str, Any]) -> None:
    """Write the report alone, over an earlier one."""
    write_whole(out / REPORT, json.dumps({"kind": _KIND, **report}, indent=1).encode())
