"""Straight alpha through a network that knows none.

Colors under transparent pixels are anything, often black, and a network would draw them into the edge as a dark
fringe. So the colors that are seen are extended under them before; colors and alpha then go through the network
apart. (The other way, upscaling colors multiplied by alpha, has to divide by it afterwards, which turns the network's
small errors into large ones where alpha is small.)
"""

from __future__ import annotations

import numpy as np

_REACH = 16  # pixels by which colors are extended: behind, a network hardly sees them
_STRIP = 512  # rows at a time
_NEIGHBORS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def extend_colors(pixels: np.ndarray) -> None:
    """Give fully transparent pixels near others those others' colors, in place.

    pixels: uint8 or uint16 [H, W, 2 or 4], the last channel being alpha, which stays as it is.
    """
    kept = pixels[:0]  # what stood above this strip, before it was changed
    for top in range(0, len(pixels), _STRIP):
        strip = np.concatenate([kept, pixels[top : top + _STRIP + _REACH]])
        kept = pixels[max(0, top + _STRIP - _REACH) : top + _STRIP].copy()
        if 0 < np.count_nonzero(strip[..., -1]) < strip[..., -1].size:
            above = len(strip) - len(pixels[top : top + _STRIP + _REACH])
            _extend(strip)
            pixels[top : top + _STRIP] = strip[above : above + _STRIP]


def _extend(pixels: np.ndarray) -> None:
    """The same for a picture that is small; a pixel's new color depends on others at most _REACH away."""
    height, width = pixels.shape[:2]
    # A frame that is never seen spares every look at the border.
    colors = np.zeros((height + 2, width + 2, pixels.shape[2] - 1), pixels.dtype)
    colors[1:-1, 1:-1] = pixels[..., :-1]
    known = np.zeros((height + 2, width + 2), bool)
    known[1:-1, 1:-1] = pixels[..., -1] > 0
    inside = np.zeros_like(known)
    inside[1:-1, 1:-1] = True
    for _ in range(_REACH):
        wide = known.copy()
        wide[1:] |= known[:-1]
        wide[:-1] |= known[1:]
        near = wide.copy()
        near[:, 1:] |= wide[:, :-1]
        near[:, :-1] |= wide[:, 1:]
        y, x = np.nonzero(near & inside & ~known)
        if not len(y):
            break
        total, count = np.zeros((len(y), colors.shape[2]), np.uint32), np.zeros((len(y), 1), np.uint32)
        for dy, dx in _NEIGHBORS:
            there = known[y + dy, x + dx]
            total[there] += colors[y + dy, x + dx][there]
            count[there] += 1
        colors[y, x] = (total + count // 2) // count
        known[y, x] = True
    pixels[..., :-1] = colors[1:-1, 1:-1]


def within_neighbors(result: np.ndarray, alpha: np.ndarray, scale: int) -> np.ndarray:
    """Hold an enlarged alpha channel within what the 3×3 pixels around each of the original hold.

    So what was opaque stays opaque, and what was empty stays empty, whatever the network makes of it.
    result: [scale·h, scale·w, 1]; alpha: [h, w, 1], same dtype.
    """
    around = np.pad(alpha[..., 0], 1, mode="edge")
    height, width = alpha.shape[:2]
    views = [around[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    low, high = (f.reduce(views).repeat(scale, 0).repeat(scale, 1)[..., None] for f in (np.minimum, np.maximum))
    return np.clip(result, low, high)
