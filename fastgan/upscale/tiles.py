"""Split an image into overlapping tiles of equal shape, run a network on each, and assemble the results.

At an inner edge of a tile the network sees padding instead of the image, so its result is wrong up to a distance of
the network's reach (the radius of its receptive field). This margin is cropped. Where the margin is as large as the
reach, the assembled result equals that of the whole image.
An RRDBNet of 23 blocks has a reach of 349 pixels. Measured for realesrgan-x4plus on three photographs, the largest
error falls from 40 levels of 255 at 8 pixels from the edge to 15 at 32, 1.8 at 64 and 0.6 at 80
(benchmarks/results/tiles.csv). Networks whose reach is larger than MARGIN, or unknown, therefore get MARGIN, and
neighboring tiles are blended linearly over BLEND pixels beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastgan.runtime.spec import Spec

#: Largest margin at an inner edge, in input pixels.
MARGIN = 64
#: Input pixels over which neighbors are blended where the margin is smaller than the reach.
BLEND = 16
#: The smallest side of a tile.
MIN_SIDE = 32
#: The largest automatic side: margins are then a small fraction of a tile.
MAX_SIDE = 1024
_MIN_HEIGHT = 384  # of tiles that are lower because the image is wide; so that some pixels remain between the margins
_STRIP_BYTES = 1 << 24  # of rows that are yielded at a time
# Activation memory of a network in bytes for a pixel of its input: BASE + DEEP · scale². Measured (float32, CPU):
# RRDBNet ×4 takes 15,300, compact networks at most 2,000.
_BASE, _DEEP = 4_000, 1_000


@dataclass(frozen=True)
class TilePolicy:
    """Which images are split into tiles, and of which size.

    tile: (height, width) of the tiles in input pixels; None: images are never split. max_untiled: images of at most
    this many pixels are not split. exact: the network takes this shape only; smaller images are padded to it.
    max_row_bytes: limit for the output of a row of tiles, 0 for none; wide images get lower tiles.
    """

    tile: tuple[int, int] | None = None
    max_untiled: int = 0
    exact: bool = False
    max_row_bytes: int = 0


def policy_for_memory(spec: Spec, free: int) -> TilePolicy:
    """The policy for `free` bytes: the network takes at most half of it, a row of tiles (two are held) a sixteenth."""
    pixels = free // 2 // (_BASE + _DEEP * spec.scale**2)
    side = max(min_side(spec), min(MAX_SIDE, int(pixels**0.5)))
    return TilePolicy((side, side), max_untiled=pixels, max_row_bytes=free // 16)


def min_side(spec: Spec) -> int:
    """The smallest side of a tile for a network, in input pixels."""
    return max(MIN_SIDE, 8 * spec.multiple)


@dataclass(frozen=True)
class AxisTiles:
    """The tiles along one axis. starts: first pixels of the tiles. cuts: middles of the overlaps of neighbors."""

    length: int
    tile: int
    starts: tuple[int, ...]
    cuts: tuple[int, ...]

    def span(self, i: int, blend: int) -> tuple[int, int]:
        """The range of pixels that tile i contributes to, blended ones included."""
        first = self.cuts[i - 1] - blend // 2 if i else 0
        last = self.cuts[i] + blend // 2 if i < len(self.cuts) else self.length
        return first, last


@dataclass(frozen=True)
class TileGrid:
    """The tiles of an image, all of shape [rows.tile, columns.tile].

    blend: input pixels over which neighbors are blended. full_margin: whether the margins are as large as the reach of
    the network or MARGIN requires; otherwise the result may differ along the edges of tiles.
    """

    rows: AxisTiles
    columns: AxisTiles
    blend: int
    scale: int
    full_margin: bool

    @property
    def count(self) -> int:
        """The number of tiles."""
        return len(self.rows.starts) * len(self.columns.starts)


def tile_grid(height: int, width: int, spec: Spec, policy: TilePolicy) -> TileGrid:
    """The tiles of an image of height × width pixels."""
    tile = policy.tile
    if tile is None or (not policy.exact and height * width <= policy.max_untiled):
        tile = (height + spec.multiple, width + spec.multiple)
    elif policy.max_row_bytes:
        max_height = policy.max_row_bytes // (4 * width * spec.scale**2)  # RGBA
        tile = (min(tile[0], max(max_height, _MIN_HEIGHT)), tile[1])
    margin, blend, full_margin = _overlap(spec, min(tile))
    rows, columns = (
        _axis(length, side - side % spec.multiple, 2 * margin + blend, spec.multiple, policy.exact)
        for length, side in zip((height, width), tile, strict=True)
    )
    single = not rows.cuts and not columns.cuts
    return TileGrid(rows, columns, blend, spec.scale, full_margin or single)


def _overlap(spec: Spec, side: int) -> tuple[int, int, bool]:
    """Margin, blend, and whether the margin is full: small tiles get smaller margins."""
    known = 0 < spec.reach <= MARGIN
    margin, blend = max(spec.reach if known else MARGIN, spec.multiple), 0 if known else BLEND
    # With a known reach the result is exact, which justifies more overlap.
    if 2 * margin + blend <= side * (3 / 4 if known else 3 / 8):
        return margin, blend, True
    blend = side // 32 * 2
    return max((side * 3 // 8 - blend) // 2, spec.multiple), blend, False


def run_tiles(
    pixels: np.ndarray,
    network: Callable[[np.ndarray], np.ndarray],
    grid: TileGrid,
    on_tile: Callable[[], None] = lambda: None,
) -> Iterator[np.ndarray]:
    """Run a network on the tiles of an image and yield the rows of the result in strips, from top to bottom.

    pixels: uint8 or uint16 [H, W, C]. network: from a tile [h, w, C] to [scale·h, scale·w, C] of the same dtype.
    on_tile: called after every tile. Yields [h, scale·W, C] of the same dtype; holds one row of tiles of the result.
    """
    scale, blended = grid.scale, grid.blend * grid.scale
    _, width, channels = pixels.shape
    above = None  # last rows of the previous row of tiles, to blend with
    for i, top in enumerate(grid.rows.starts):
        first, last = grid.rows.span(i, grid.blend)
        band = np.empty(((last - first) * scale, width * scale, channels), pixels.dtype)
        for j, left in enumerate(grid.columns.starts):
            result = network(_tile(pixels, top, left, grid))
            begin, end = grid.columns.span(j, grid.blend)
            part = result[(first - top) * scale : (last - top) * scale, (begin - left) * scale : (end - left) * scale]
            target = band[:, begin * scale : end * scale]
            filled = blended if j else 0
            target[:, :filled] = _blend(target[:, :filled], part[:, :filled], axis=1)
            target[:, filled:] = part[:, filled:]
            on_tile()
        if above is not None:
            band[:blended] = _blend(above, band[:blended], axis=0)
        if i + 1 < len(grid.rows.starts):
            end = len(band) - blended
            above = band[end:].copy()
            band = band[:end]
        # In strips of limited size: a consumer with a queue then holds about one row of tiles, not one for each slot.
        step = max(1, _STRIP_BYTES // max(1, band[:1].nbytes))
        yield from (band[start : start + step] for start in range(0, len(band), step))


def _axis(length: int, tile: int, shared: int, multiple: int, exact: bool) -> AxisTiles:
    """Evenly spaced tiles along one axis: neighbors share at least `shared` pixels, none exceeds the padded length."""
    padded = -(-length // multiple) * multiple
    if tile >= padded:
        return AxisTiles(length, tile if exact else padded, (0,), ())
    step = (tile - shared) // multiple * multiple
    count = -(-(padded - tile) // step) + 1
    starts = tuple((padded - tile) * i // (count - 1) // multiple * multiple for i in range(count))
    cuts = tuple((start + end + tile) // 2 for start, end in pairwise(starts))
    return AxisTiles(length, tile, starts, cuts)


def _tile(pixels: np.ndarray, top: int, left: int, grid: TileGrid) -> np.ndarray:
    """One tile, padded by repeating the edge of the image where it extends beyond."""
    height, width = grid.rows.tile, grid.columns.tile
    tile = pixels[top : top + height, left : left + width]
    missing = ((0, height - tile.shape[0]), (0, width - tile.shape[1]), (0, 0))
    return np.pad(tile, missing, mode="edge") if any(after for _, after in missing) else tile


def _blend(before: np.ndarray, after: np.ndarray, axis: int) -> np.ndarray:
    """Linear transition from one array to the other along an axis, rounded."""
    n = before.shape[axis]
    weight = ((np.arange(n, dtype=np.float32) + 0.5) / max(n, 1)).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    return np.rint(before + weight * (after.astype(np.float32) - before)).astype(before.dtype)
