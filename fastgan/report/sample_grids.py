"""The sample grids of a run as plain values for a template: which steps a page embeds, and the files as data URIs."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastgan.report.load import KINDS, Run
from fastgan.report.text import figure, number

STEPS = 24
"""The largest number of steps that a page embeds."""

BUDGET = 24 << 20
"""Fewer steps are embedded if their files have more bytes than this."""

LARGEST = 8 << 20
"""A file of more bytes than this is named, not embedded."""

_TITLES = {
    "fixed": ("Fixed latents", "the same latents at every step"),
    "fresh": ("New latents", "other latents at every step"),
    "beside": ("Real and generated", "left: real images of the last batch; right: generated images"),
    "nearest": ("Nearest neighbors", "each generated image, and on its right the most similar training image"),
    "strips": ("Interpolations", "each row from one latent to another"),
    "truncation": ("Truncation", "latents scaled from 0, their mean, on the left to full length on the right"),
    "classes": ("Classes", "a row for each class, a column for each latent"),
}
#: For a generator that maps images to images.
_TITLES_FROM_IMAGES = {
    "fixed": ("Held-out pairs", "from top to bottom: source, output, target; not trained on"),
    "fresh": ("Pairs of the last batch", "from top to bottom: source, output, target"),
}
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A PNG file inside the page. problem: why it is not embedded, or empty. width, height: in pixels."""

    src: str = ""
    alt: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Snapshot:
    """The grid of one step; picture and step are None where none was saved."""

    step: int | None
    picture: Picture | None
    hidden: bool


@dataclass(frozen=True)
class GridOverTime:
    """A figure that the slider moves through training.

    indices: for each step of the slider the index of its snapshot. at: the step that is shown first, as text.
    missing: the sentence for a step without a picture. style: CSS classes of a color swatch before the title, or empty.
    """

    title: str
    meaning: str
    at: str
    indices: list[int]
    snapshots: list[Snapshot]
    missing: str
    style: str = ""


@dataclass(frozen=True)
class SampleGrids:
    """All sample grids of a page. steps: those of the slider. first: the large figures, before the real images."""

    steps: list[int]
    first: list[GridOverTime]
    more: list[GridOverTime]
    real: Picture | None
    note: str


def sample_grids(run: Run) -> SampleGrids | None:
    """The sample grids of one run, or None if there is no picture."""
    steps = chosen_steps(run)
    if not steps and run.real is None:
        return None
    # The built-in tasks always have the first two kinds; a task of one's own has names of its own instead.
    own = [kind for kind in run.sample_grids if kind not in KINDS]
    built_in = [kind for kind in KINDS if kind in run.sample_grids]
    kinds = own if own and not built_in else [*KINDS[:2], *(kind for kind in built_in if kind not in KINDS[:2]), *own]
    grids = [over_time(*_heading(kind, run), run.sample_grids.get(kind, {}), steps) for kind in kinds]
    saved = len({step for found in run.sample_grids.values() for step in found})
    note = f"{len(steps)} of {saved} saved steps are shown; the others are in samples/." if saved > len(steps) else ""
    real = None if run.real is None else picture(run.real, "grid of real images from the data set")
    return SampleGrids(steps, grids[:2], grids[2:], real, note)


def over_time(
    title: str,
    meaning: str,
    pictures: Mapping[int, Path],
    steps: Sequence[int],
    keep_last: bool = False,
    style: str = "",
) -> GridOverTime:
    """A figure with the pictures of these steps, which shows the last step first.

    keep_last: a step without a picture shows the previous one.
    """
    shown = [_saved_step(step, pictures, keep_last) for step in steps]
    different = list(dict.fromkeys(shown))
    snapshots = [
        Snapshot(
            step,
            None if step is None else picture(pictures[step], f"grid of images at step {step}: {meaning}"),
            hidden=step != shown[-1],
        )
        for step in different
    ]
    return GridOverTime(
        title,
        meaning,
        at=figure(shown[-1] or steps[-1]) if steps else "",
        indices=[different.index(step) for step in shown],
        snapshots=snapshots,
        missing="None was saved yet." if keep_last else "None was saved at this step.",
        style=style,
    )


def chosen_steps(run: Run, limit: int = STEPS, budget: int = BUDGET) -> list[int]:
    """Choose the steps to embed: at most `limit`, and fewer (never under two) if the files are large."""
    steps = sorted({step for found in run.sample_grids.values() for step in found})
    sizes = {step: sum(_size(found[step]) for found in run.sample_grids.values() if step in found) for step in steps}
    while limit > 2 and sum(sizes[step] for step in spread(steps, limit)) > budget:
        limit -= 1
    return spread(steps, limit)


def spread(items: Sequence[int], limit: int) -> list[int]:
    """Pick at most `limit` (2 or more) items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def picture(path: Path, alt: str) -> Picture:
    """A PNG file as a data URI, or the problem with it."""
    if _size(path) > LARGEST:
        return Picture(problem=f"{path.name} is too large to embed.")
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if len(data) < 24 or not data.startswith(_PNG):
        return Picture(problem=f"{path.name} is not a PNG file.")
    width, height = struct.unpack(">II", data[16:24])
    return Picture(f"data:image/png;base64,{base64.b64encode(data).decode()}", alt, width, height)


def _heading(kind: str, run: Run) -> tuple[str, str]:
    titles = _TITLES | _TITLES_FROM_IMAGES if run.from_images else _TITLES
    title, meaning = titles.get(kind, (kind, "samples of the task"))
    among, total = (number(run.neighbors.get(key)) for key in ("among", "of"))
    if kind == "nearest" and among is not None and total is not None:
        meaning += f", among {figure(among)}" + (f" of {figure(total)}" if among < total else "")
    return title, meaning


def _saved_step(step: int, pictures: Mapping[int, Path], keep_last: bool) -> int | None:
    if step in pictures or not keep_last:
        return step if step in pictures else None
    return max((saved for saved in pictures if saved < step), default=None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
