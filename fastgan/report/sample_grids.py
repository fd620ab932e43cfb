"""Sample panels: which steps a page shows, and the figures it shows them in."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastgan.report.load import KINDS, Run
from fastgan.report.text import escape, figure, number

STEPS = 24
"""The most steps a page embeds."""

BUDGET = 24 << 20
"""The bytes of pictures beyond which fewer steps are embedded."""

LARGEST = 8 << 20
"""A picture of more bytes than this is named, not embedded."""

_TITLES = {
    "fixed": ("Fixed codes", "the same latent codes at every step"),
    "fresh": ("Fresh codes", "new latent codes at every step"),
    "beside": ("Real beside fake", "left: real images of the last batch; right: generated ones"),
    "nearest": ("Nearest real images", "each generated image, and on its right the training image most like it"),
    "strips": ("Interpolations", "from left to right the way from one latent code to another"),
    "truncation": ("Truncation", "latent codes scaled from 0, the mean, on the left to full length on the right"),
    "classes": ("Classes", "a row for each class, a column for each latent code"),
}
#: Those of a run whose images are made of sources.
_PAIRS = {
    "fixed": ("Held-out pairs", "from top to bottom: sources, what is made of them, targets; none was trained on"),
    "fresh": ("Pairs of the last batch", "from top to bottom: sources, what is made of them, targets"),
}
_PNG = b"\x89PNG\r\n\x1a\n"


def spread(items: Sequence[int], limit: int) -> list[int]:
    """Pick at most `limit` (2 or more) items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def chosen_steps(run: Run, limit: int = STEPS, budget: int = BUDGET) -> list[int]:
    """Choose the steps to embed: at most `limit`, and fewer (never under two) where the pictures are large."""
    steps = sorted({step for found in run.panels.values() for step in found})
    sizes = {step: sum(_size(found[step]) for found in run.panels.values() if step in found) for step in steps}
    while limit > 2 and sum(sizes[step] for step in spread(steps, limit)) > budget:
        limit -= 1
    return spread(steps, limit)


def panels(run: Run) -> str:
    """Render the section: the slider and a figure for each kind of panel, or a sentence where there is none."""
    steps = chosen_steps(run)
    if not steps and run.real is None:
        return '<p class="empty">No sample panels were saved (there are no pictures in samples/).</p>'
    real = (
        picture(run.real, "grid of real images from the data set")
        if run.real
        else '<p class="empty">There is no samples/real.png.</p>'
    )
    kinds = [*KINDS[:2], *(kind for kind in KINDS[2:] if kind in run.panels)]
    moving = [through_time(*_about(kind, run), run.panels.get(kind, {}), steps) for kind in kinds]
    still = (
        f'<figure><figcaption><h3>Real images</h3><span class="meaning">from the data set</span></figcaption>'
        f'<div class="panel">{real}</div></figure>'
    )
    more = f'<div class="panels small">{"".join(moving[2:])}</div>' if moving[2:] else ""
    return f'{slider(steps)}<div class="panels">{"".join(moving[:2])}{still}</div>{more}{_thinned(run, steps)}'


def slider(steps: Sequence[int]) -> str:
    """The control that moves every figure of class `moving` through these steps; none for a single step."""
    if len(steps) < 2:
        return ""
    last = len(steps) - 1
    return (
        f'<div class="time" data-steps="{" ".join(map(str, steps))}" hidden><button type="button">Play</button>'
        f'<label for="when">Training step</label>'
        f'<input type="range" id="when" min="0" max="{last}" step="1" value="{last}">'
        f'<output for="when">{figure(steps[-1])}</output></div>'
    )


def _about(kind: str, run: Run) -> tuple[str, str]:
    title, meaning = (_TITLES | _PAIRS if run.of_sources else _TITLES)[kind]
    among, total = (number(run.neighbors.get(key)) for key in ("among", "of"))
    if kind == "nearest" and among is not None and total is not None:
        meaning += f", of {figure(among)}" + (f" looked at among {figure(total)}" if among < total else "")
    return title, meaning


def through_time(
    title: str, meaning: str, pictures: Mapping[int, Path], steps: Sequence[int], before: bool = False
) -> str:
    """A figure that the slider moves through these steps, which shows the last of them first. title is HTML.

    before: at a step without a picture it shows the one before, and says of which step that is.
    """
    shown = [_at(step, pictures, before) for step in steps]
    different = list(dict.fromkeys(shown))
    moments, none = "", '<p class="empty">None was saved.</p>'
    for step in different:
        hidden = "" if step == shown[-1] else " hidden"
        if step is None:
            sentence = f"None was saved {'yet' if before else 'here'}."
            moments += f'<div class="moment"{hidden}><p class="empty">{sentence}</p></div>'
        else:
            content = picture(pictures[step], f"grid of images at step {step}: {meaning}")
            moments += f'<div class="moment" data-step="{step}"{hidden}>{content}</div>'
    at = f'<span class="at">step {figure(shown[-1] or steps[-1])}</span>' if steps else ""
    return (
        f'<figure class="moving" data-moments="{" ".join(str(different.index(step)) for step in shown)}">'
        f'<figcaption><h3>{title}</h3><span class="meaning">{escape(meaning)}</span>{at}</figcaption>'
        f'<div class="panel">{moments or none}</div></figure>'
    )


def _at(step: int, pictures: Mapping[int, Path], before: bool) -> int | None:
    if step in pictures or not before:
        return step if step in pictures else None
    return max((saved for saved in pictures if saved < step), default=None)


def picture(path: Path, alt: str) -> str:
    """A PNG file inside the page, or a sentence where it is none."""
    name = escape(path.name)
    if _size(path) > LARGEST:
        return f'<p class="empty">{name} is too large to embed.</p>'
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if len(data) < 24 or not data.startswith(_PNG):
        return f'<p class="empty">{name} is not a PNG picture.</p>'
    width, height = struct.unpack(">II", data[16:24])
    return (
        f'<img alt="{escape(alt)}" width="{width}" height="{height}" decoding="sync" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _thinned(run: Run, steps: Sequence[int]) -> str:
    saved = len({step for found in run.panels.values() for step in found})
    if saved <= len(steps):
        return ""
    return f'<p class="note">{len(steps)} of {saved} saved steps are shown; the others are in samples/.</p>'
