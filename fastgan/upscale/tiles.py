"""Tiles of equal shape that overlap: how they lie in a picture, and how their results become its rows again.

A tile's inner edges see padding where the picture goes on, so results are wrong there: as deep as the network reaches.
That much, the margin, is thrown away, and what is left of neighboring tiles meets: the result equals the whole's.
An RRDBNet of 23 blocks reaches 349 pixels in theory. In practice, of realesrgan-x4plus on three photographs, the
largest error falls from 40 levels of 255 at 8 pixels from the edge over 15 at 32 to 1.8 at 64 and 0.6 at 80
(benchmarks/results/tiles.csv). So networks that reach farther than MARGIN, or do not say, have MARGIN, and neighbors
are blended over the RAMP behind it: what is worst counts least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastgan.runtime.spec import Spec

#: Pixels of the input at each inner edge that are thrown away at most.
MARGIN = 64
#: Pixels of the input over which neighbors are blended where the margin is less than the reach.
RAMP = 16
#: The smallest side of a tile.
SMALLEST = 32
#: The largest side chosen unasked: beyond, margins are a small share.
LARGEST = 1024
_LOWEST = 384  # what leaves room between the margins
_PIECE = 1 << 24  # bytes of rows that are given at a time
# Bytes that a network needs beside its weights for a pixel of its input: BASE + DEEP · scale². Measured (float32, CPU):
# RRDBNet ×4 takes 15,300, compact networks at most 2,000.
_BASE, _DEEP = 4_000, 1_000


@dataclass(frozen=True)
class Cutting:
    """Which pictures are cut, and into what.

    tile: height and width of the tiles, None where nothing is cut. whole: pictures of at most so many pixels are not.
    exact: nothing but tiles of just that shape will do; smaller pictures are padded. row: bytes of the result that a
    row of tiles should not exceed, 0 for any; wide pictures get lower tiles.
    """

    tile: tuple[int, int] | None = None
    whole: int = 0
    exact: bool = False
    row: int = 0


def fitting(spec: Spec, free: int) -> Cutting:
    """Such that the network takes half of `free` bytes at most, and a row of tiles a sixteenth; two are in hand."""
    pixels = free // 2 // (_BASE + _DEEP * spec.scale**2)
    side = max(least_side(spec), min(LARGEST, int(pixels**0.5)))
    return Cutting((side, side), whole=pixels, row=free // 16)


def least_side(spec: Spec) -> int:
    """The smallest tile that can be asked for."""
    return max(SMALLEST, 8 * spec.multiple)


@dataclass(frozen=True)
class Axis:
    """One direction. starts: where tiles begin. cuts: where neighbors meet, in the middle of their overlap."""

    length: int
    tile: int
    starts: tuple[int, ...]
    cuts: tuple[int, ...]

    def span(self, i: int, ramp: int) -> tuple[int, int]:
        """The part that tile i gives, ramps included."""
        first = self.cuts[i - 1] - ramp // 2 if i else 0
        last = self.cuts[i] + ramp // 2 if i < len(self.cuts) else self.length
        return first, last


@dataclass(frozen=True)
class Plan:
    """Where the tiles of a picture lie. All have the shape [rows.tile, columns.tile]."""

    rows: Axis
    columns: Axis
    ramp: int
    scale: int
    #: Whether the margins are as deep as MARGIN or the reach of the network asks for.
    safe: bool

    @property
    def tiles(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)


def plan(height: int, width: int, spec: Spec, cutting: Cutting) -> Plan:
    """Lay tiles over a picture."""
    tile = cutting.tile
    if tile is None or (not cutting.exact and height * width <= cutting.whole):
        tile = (height + spec.multiple, width + spec.multiple)
    elif cutting.row:
        high = cutting.row // (4 * width * spec.scale**2)  # RGBA
        tile = (min(tile[0], max(high, _LOWEST)), tile[1])
    margin, ramp, safe = _overlap(spec, min(tile))
    rows, columns = (
        _axis(length, side - side % spec.multiple, 2 * margin + ramp, spec.multiple, cutting.exact)
        for length, side in zip((height, width), tile, strict=True)
    )
    one = not rows.cuts and not columns.cuts
    return Plan(rows, columns, ramp, spec.scale, safe or one)


def _overlap(spec: Spec, side: int) -> tuple[int, int, bool]:
    """Margin, ramp, and whether they are what is wanted: of small tiles, too little would be left."""
    known = 0 < spec.reach <= MARGIN
    margin, ramp = max(spec.reach if known else MARGIN, spec.multiple), 0 if known else RAMP
    # A known reach makes tiles exact, which is worth more of them than a guess is.
    if 2 * margin + ramp <= side * (3 / 4 if known else 3 / 8):
        return margin, ramp, True
    ramp = side // 32 * 2
    return max((side * 3 // 8 - ramp) // 2, spec.multiple), ramp, False


def strips(
    pixels: np.ndarray, network: Callable[[np.ndarray], np.ndarray], plan: Plan, tick: Callable[[], None] = lambda: None
) -> Iterator[np.ndarray]:
    """Run a network over a picture tile by tile, and give the result's rows in strips, from top to bottom.

    pixels: uint8 or uint16 [H, W, C]. network: a tile [h, w, C] to [scale·h, scale·w, C] of the same dtype. tick:
    called after every tile. No more of the result is held than one row of tiles here, and one by who takes them.
    """
    scale, blended = plan.scale, plan.ramp * plan.scale
    _, width, channels = pixels.shape
    above = None  # the last rows of the tiles before, to be blended with
    for i, top in enumerate(plan.rows.starts):
        first, last = plan.rows.span(i, plan.ramp)
        band = np.empty(((last - first) * scale, width * scale, channels), pixels.dtype)
        for j, left in enumerate(plan.columns.starts):
            result = network(_cut(pixels, top, left, plan))
            begin, end = plan.columns.span(j, plan.ramp)
            part = result[(first - top) * scale : (last - top) * scale, (begin - left) * scale : (end - left) * scale]
            place = band[:, begin * scale : end * scale]
            ready = blended if j else 0
            place[:, :ready] = _mix(place[:, :ready], part[:, :ready], axis=1)
            place[:, ready:] = part[:, ready:]
            tick()
        if above is not None:
            band[:blended] = _mix(above, band[:blended], axis=0)
        if i + 1 < len(plan.rows.starts):
            end = len(band) - blended
            above = band[end:].copy()
            band = band[:end]
        # In pieces: who writes them holds one row of tiles while the next is made, not as many as fit between the two.
        step = max(1, _PIECE // max(1, band[:1].nbytes))
        yield from (band[start : start + step] for start in range(0, len(band), step))


def _axis(length: int, tile: int, shared: int, multiple: int, exact: bool) -> Axis:
    """Tiles over one direction, evenly: neighbors share `shared` pixels or more, none goes past the end."""
    whole = -(-length // multiple) * multiple
    if tile >= whole:
        return Axis(length, tile if exact else whole, (0,), ())
    step = (tile - shared) // multiple * multiple
    count = -(-(whole - tile) // step) + 1
    starts = tuple((whole - tile) * i // (count - 1) // multiple * multiple for i in range(count))
    cuts = tuple((start + end + tile) // 2 for start, end in pairwise(starts))
    return Axis(length, tile, starts, cuts)


def _cut(pixels: np.ndarray, top: int, left: int, plan: Plan) -> np.ndarray:
    """One tile; beyond the picture (its sides need not be multiples of what the network takes) its edge goes on."""
    height, width = plan.rows.tile, plan.columns.tile
    tile = pixels[top : top + height, left : left + width]
    missing = ((0, height - tile.shape[0]), (0, width - tile.shape[1]), (0, 0))
    return np.pad(tile, missing, mode="edge") if any(after for _, after in missing) else tile


def _mix(before: np.ndarray, after: np.ndarray, axis: int) -> np.ndarray:
    """From one to the other along an axis, linearly, rounded."""
    n = before.shape[axis]
    share = ((np.arange(n, dtype=np.float32) + 0.5) / max(n, 1)).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    return np.rint(before + share * (after.astype(np.float32) - before)).astype(before.dtype)
