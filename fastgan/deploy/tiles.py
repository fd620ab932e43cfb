"""Tiles of equal shape that overlap: how they lie in a picture, and how their results become its rows again.

A tile's inner edges see padding where the picture goes on, so results are wrong there: as deep as the network reaches.
That much, the margin, is thrown away, and what is left of neighbouring tiles meets: the result equals the whole's.
Where the reach is not known, or in theory too far (an RRDBNet's 23 blocks reach 349 pixels), the margin is MARGIN, and
neighbours are blended over RAMP pixels; benchmarks/results/tiles.csv says by how much that is off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastgan.deploy.spec import Spec

#: Pixels of the input at each inner edge that are thrown away at most.
MARGIN = 32
#: Pixels of the input over which neighbours are blended where the margin is less than the reach.
RAMP = 16
#: The largest side chosen unasked: beyond, the margins are a small share anyway.
LARGEST = 512
#: Bytes that a network needs beside its weights, for a pixel of its input: BASE + DEEP · scale². These are RRDBNet's,
#: which is the hungriest of its kind; compact networks take a tenth.
BASE, DEEP = 4_000, 1_000


@dataclass(frozen=True)
class Axis:
    """One direction. starts: where tiles begin. cuts: where neighbours meet, in the middle of their overlap."""

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

    @property
    def tiles(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)


def plan(height: int, width: int, spec: Spec, tile: int) -> Plan:
    """Lay tiles of side `tile` (`least_tile` or more; 0: one for all) over a picture."""
    margin, ramp = overlap(spec)
    side = tile - tile % spec.multiple
    rows, columns = (_axis(length, side, 2 * margin + ramp, spec.multiple) for length in (height, width))
    return Plan(rows, columns, ramp, spec.scale)


def overlap(spec: Spec) -> tuple[int, int]:
    """Margin and ramp for a network."""
    if 0 < spec.reach <= MARGIN:
        return max(spec.reach, spec.multiple), 0
    return max(MARGIN, spec.multiple), RAMP


def least_tile(spec: Spec) -> int:
    """The smallest side whose middle is worth its margins."""
    margin, ramp = overlap(spec)
    least = 2 * margin + ramp + max(2 * ramp, 8)
    return -(-least // spec.multiple) * spec.multiple


def fitting_tile(spec: Spec, free: int) -> int:
    """The side of a tile whose network takes half of `free` bytes at most, from the smallest possible to LARGEST."""
    pixels = free / 2 / (BASE + DEEP * spec.scale**2)
    side = min(LARGEST, int(pixels**0.5) // 32 * 32)
    return max(least_tile(spec), side - side % spec.multiple)


def strips(
    pixels: np.ndarray, network: Callable[[np.ndarray], np.ndarray], plan: Plan, tick: Callable[[], None] = lambda: None
) -> Iterator[np.ndarray]:
    """Run a network over a picture tile by tile, and give the result's rows in strips, from top to bottom.

    pixels: uint8 or uint16 [H, W, C]. network: a tile [h, w, C] to [scale·h, scale·w, C] of the same dtype. tick:
    called after every tile. No more of the result is held than one row of tiles.
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
        yield band


def _axis(length: int, tile: int, shared: int, multiple: int) -> Axis:
    """Tiles over one direction, evenly: neighbours share `shared` pixels or more, none goes past the end."""
    whole = -(-length // multiple) * multiple
    if not tile or tile >= whole:
        return Axis(length, whole, (0,), ())
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
