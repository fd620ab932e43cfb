"""The "fixed" sample grid over training, as one animated WebP file."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from fastgan._util.files import write_whole
from fastgan.report.load import sample_grids_in
from fastgan.report.sample_grids import spread

FRAMES, LARGEST = 60, 1024
_FRAME_MS, _LAST_MS = 160, 1600


def write_animation(run: Path) -> Path | None:
    """Write `samples/fixed.webp` of a run and return its path; None if there are fewer than two grids.

    At most FRAMES grids, evenly spread over the run, of at most LARGEST pixels a side; the last one is shown longer.
    Files that cannot be read, or are of another size than the last, are left out.
    """
    saved = sample_grids_in(run, "fixed")
    frames = [frame for step in spread(list(saved), FRAMES) if (frame := _frame(saved[step])) is not None]
    frames = [frame for frame in frames if frame.size == frames[-1].size]
    if len(frames) < 2:
        return None
    data = io.BytesIO()
    times = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0, quality=80, method=2)
    path = Path(run) / "samples" / "fixed.webp"
    write_whole(path, data.getvalue())
    return path


def _frame(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as picture:
            frame = picture.convert("RGB")
    except (OSError, ValueError):
        return None
    frame.thumbnail((LARGEST, LARGEST))
    return frame
