"""What `fastgan augment` prints and draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgan._util.output import printable
from fastgan.augmentation.filter import REASONS
from fastgan.augmentation.generate import Made
from fastgan.data.imageset import ImageSet
from fastgan.report.images import beside, grid, save_png

#: Classes, real, accepted and rejected images of a row of the picture.
_ROWS, _REAL, _ACCEPTED, _REJECTED = 20, 4, 8, 4


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Counts for each class, in lines."""
    width = max(5, *(len(printable(row["class"])) for row in rows))
    lines = [f"{'class':{width}} {'real':>7} {'generated':>9} {'drawn':>7}   rejected: {', '.join(REASONS)}"]
    for row in rows:
        rejected = ", ".join(str(row["rejected"][reason]) for reason in REASONS)
        counts = f"{row['real']:>7,} {row['generated']:>9,} {row['drawn']:>7,}"
        lines.append(f"{printable(row['class']):{width}} {counts}   {rejected}")
    return "\n".join(lines)


def picture(real: ImageSet, made: Sequence[Made], path: Path) -> Path:
    """Real, accepted and rejected images beside each other, a row for each class that has generated ones."""
    assert real.labels is not None
    shown = [label for label, one in enumerate(made) if one.wanted][:_ROWS]
    columns = [
        (_REAL, [real.images[real.labels == label] for label in shown]),
        (_ACCEPTED, [made[label].images for label in shown]),
        (_REJECTED, [np.array(made[label].examples).reshape(-1, *real.images.shape[1:]) for label in shown]),
    ]
    scale = max(1, 48 // real.images.shape[-1])
    sheets = None
    for count, rows in columns:
        sheet = np.full((len(shown), count, *real.images.shape[1:]), 255, np.uint8)
        for row, images in zip(sheet, rows, strict=True):
            row[: len(images)] = images[:count]
        part = grid(sheet.reshape(-1, *real.images.shape[1:]), count, scale=scale)
        sheets = part if sheets is None else beside(sheets, part)
    assert sheets is not None
    return save_png(sheets, path)
