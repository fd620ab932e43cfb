"""Sample panels: which steps a page shows, and the figures it shows them in."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from pathlib import Path

from fastgan.report.read import Run
from fastgan.report.text import escape, figure

STEPS = 24
"""The most steps a page embeds."""

BUDGET = 24 << 20
"""The bytes of pictures beyond which fewer steps are embedded."""

LARGEST = 8 << 20
"""A picture of more bytes than this is named, not embedded."""

_PNG = b"\x89PNG\r\n\x1a\n"


def spread(items: Sequence[int], limit: int) -> list[int]:
    """Pick at most `limit` (2 or more) items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def chosen_steps(run: Run, limit: int = STEPS, budget: int = BUDGET) -> list[int]:
    """Choose the steps to embed: at most `limit`, and fewer (never under two) where the pictures are large."""
    steps = sorted({*run.fixed, *run.fresh})
    sizes = {step: sum(_size(kind[step]) for kind in (run.fixed, run.fresh) if step in kind) for step in steps}
    while limit > 2 and sum(sizes[step] for step in spread(steps, limit)) > budget:
        limit -= 1
    return spread(steps, limit)


def panels(run: Run) -> str:
    """Render the section's content: the slider and three figures, or a sentence where there is nothing to show."""
    steps = chosen_steps(run)
    if not steps and run.real is None:
        return '<p class="empty">No sample panels were saved (there are no pictures in samples/).</p>'
    slider = ""
    if len(steps) > 1:
        last = len(steps) - 1
        slider = (
            f'<div class="time" data-steps="{" ".join(map(str, steps))}" hidden><button type="button">Play</button>'
            f'<label for="when">Training step</label>'
            f'<input type="range" id="when" min="0" max="{last}" step="1" value="{last}">'
            f'<output for="when">{figure(steps[-1])}</output></div>'
        )
    real = (
        _picture(run.real, "grid of real images from the data set")
        if run.real
        else '<p class="empty">There is no samples/real.png.</p>'
    )
    return (
        f'{slider}<div class="panels">'
        f"{_through_time('Fixed codes', 'the same latent codes at every step', run.fixed, steps)}"
        f"{_through_time('Fresh codes', 'new latent codes at every step', run.fresh, steps)}"
        f'<figure><figcaption><h3>Real images</h3><span class="meaning">from the data set</span></figcaption>'
        f'<div class="panel">{real}</div></figure></div>{_thinned(run, steps)}'
    )


def _through_time(title: str, meaning: str, pictures: dict[int, Path], steps: Sequence[int]) -> str:
    frames = []
    for i, step in enumerate(steps):
        if step in pictures:
            shown = _picture(pictures[step], f"grid of generated images, {title.lower()}, at step {step}")
        else:
            shown = f'<p class="empty">None was saved at step {figure(step)}.</p>'
        frames.append(f'<div class="moment"{"" if i == len(steps) - 1 else " hidden"}>{shown}</div>')
    body = "".join(frames) or '<p class="empty">None was saved.</p>'
    at = f'<span class="at">step {figure(steps[-1])}</span>' if steps else ""
    return (
        f'<figure class="moving"><figcaption><h3>{title}</h3><span class="meaning">{meaning}</span>{at}</figcaption>'
        f'<div class="panel">{body}</div></figure>'
    )


def _picture(path: Path, alt: str) -> str:
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
    saved = len({*run.fixed, *run.fresh})
    if saved <= len(steps):
        return ""
    return f'<p class="note">{len(steps)} of {saved} saved steps are shown; the others are in samples/.</p>'
