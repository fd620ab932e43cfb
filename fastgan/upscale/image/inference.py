"""Upscale an image of any channels and 8 or 16 bits with a network of one or three channels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from fastgan._util.memory import free_host_memory
from fastgan.errors import FastganError, UsageError
from fastgan.runtime.spec import Spec
from fastgan.upscale.tiles import TileGrid, TilePolicy, min_side, policy_for_memory, run_tiles

_SMALL_GPU = 6_000_000_000  # bytes
_COLOR_REACH = 16  # pixels by which `extend_colors` extends colors: a network hardly sees farther
_ROWS = 512  # that `extend_colors` handles at a time
_NEIGHBORS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


class Upscaler(Protocol):
    """What upscaling requires of a session; `fastgan.runtime.Session` of an image-to-image network has it."""

    @property
    def spec(self) -> Spec: ...

    @property
    def fixed(self) -> tuple[int, int] | None:
        """(height, width) where the model takes images of one size only, else None."""
        ...

    @property
    def device(self) -> str:
        """ "cpu", or a GPU by torch's name."""
        ...

    def pixels(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, C] to [N, scale·H, scale·W, C]."""
        ...

    def __call__(self, x: Any) -> Any:
        """float32 [N, C, H, W] to [N, C, scale·H, scale·W], both in `spec.range`."""
        ...


def check_network(spec: Spec) -> None:
    """Raise UsageError for a network that does not make images from images of one or three channels."""
    if spec.kind != "image":
        raise UsageError(f"model: expected a network from images to images, got a generator from {spec.origin}")
    if spec.classes or spec.result_channels != spec.channels:
        wanted = "a network to images of the same channels, without labels"
        raise UsageError(f"model: expected {wanted}, got {spec.describe()}")
    if spec.channels not in (1, 3):
        raise UsageError(f"model: expected a network of 1 or 3 channels, got one of {spec.channels}")


def tile_policy(session: Upscaler, tile: int | str) -> TilePolicy:
    """How images are split into tiles for a session.

    tile: side of the tiles in input pixels, 0 for no tiles, "auto" for a side that fits the free memory. Raises
    UsageError for any other value and for tiles that the model does not take.
    """
    least = min_side(session.spec)
    if tile != "auto" and (not isinstance(tile, int) or (tile != 0 and tile < least)):
        raise UsageError(f"tile: expected auto, 0 (none) or a number >= {least}, got {tile}")
    if session.fixed is not None:
        height, width = session.fixed
        if tile != "auto":
            raise UsageError(f"tile: this model takes images of {width}×{height} only; expected auto, got {tile}")
        if min(session.fixed) < least:
            raise UsageError(f"model: expected one for tiles of {least}×{least} or more, got one for {width}×{height}")
        return TilePolicy(session.fixed, exact=True)
    if tile == "auto":
        return policy_for_memory(session.spec, _free(session.device))
    return TilePolicy((tile, tile)) if isinstance(tile, int) and tile else TilePolicy()


def _free(device: str) -> int:
    """Free memory of the session's device in bytes. Without torch a GPU's is unknown: a small one is assumed."""
    if device == "cpu":
        return free_host_memory()
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return _SMALL_GPU
    return torch.cuda.mem_get_info(device)[0]


def upscale_strips(
    session: Upscaler, pixels: np.ndarray, grid: TileGrid, on_tile: Callable[[], None] = lambda: None
) -> Iterator[np.ndarray]:
    """Upscale an image; yields the rows of the result in strips [h, scale·W, C] of the same dtype.

    pixels: uint8 or uint16 [H, W, C] with C 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha). The colors of
    transparent pixels are changed in place (see `extend_colors`). A network of three channels gets gray as three equal
    ones; one of a single channel gets the colors one after the other. on_tile: called after every tile. Raises
    FastganError where the network returns NaN or infinity for 16 bits.
    """
    run = _run_8bit(session) if pixels.dtype == np.uint8 else _run_16bit(session)
    network = _any_channels(run, session.spec)
    if pixels.shape[2] in (2, 4):
        extend_colors(pixels)
    return run_tiles(pixels, network, grid, on_tile)


Network = Callable[[np.ndarray], np.ndarray]


def _run_8bit(session: Upscaler) -> Network:
    return lambda tile: session.pixels(np.ascontiguousarray(tile)[None])[0]


def _run_16bit(session: Upscaler) -> Network:
    low, high = session.spec.range

    def network(tile: np.ndarray) -> np.ndarray:
        x = tile.transpose(2, 0, 1)[None].astype(np.float32) * np.float32((high - low) / 65535) + np.float32(low)
        y = np.asarray(session(x))[0].transpose(1, 2, 0)
        if not np.isfinite(y).all():
            raise FastganError("the network returned NaN or infinity; try another precision")
        return np.rint(np.clip((y - low) / (high - low), 0, 1) * 65535).astype(np.uint16)

    return network


def _any_channels(run: Network, spec: Spec) -> Network:
    """A network for 1 to 4 channels, from one for spec.channels."""

    def gray(tile: np.ndarray) -> np.ndarray:
        if spec.channels == 1:
            return run(tile)
        result = run(np.repeat(tile, 3, axis=2)).astype(np.uint32)
        return ((result.sum(axis=2, keepdims=True) + 1) // 3).astype(tile.dtype)

    def colors(tile: np.ndarray) -> np.ndarray:
        if tile.shape[2] == 1:
            return gray(tile)
        if spec.channels == 3:
            return run(tile)
        return np.concatenate([run(tile[..., i : i + 1]) for i in range(3)], axis=2)

    def alpha(tile: np.ndarray) -> np.ndarray:
        if (tile == tile[0, 0, 0]).all():  # mostly opaque: saves half of the work
            return np.full((tile.shape[0] * spec.scale, tile.shape[1] * spec.scale, 1), tile[0, 0, 0], tile.dtype)
        return clip_to_neighbors(gray(tile), tile, spec.scale)

    def network(tile: np.ndarray) -> np.ndarray:
        if tile.shape[2] in (1, 3):
            return colors(tile)
        return np.concatenate([colors(tile[..., :-1]), alpha(tile[..., -1:])], axis=2)

    return network


def extend_colors(pixels: np.ndarray) -> None:
    """Copy the colors of visible pixels to the fully transparent ones within 16 pixels of them, in place.

    Without alpha-aware handling, the arbitrary (often black) colors of transparent pixels would bleed into visible
    edges as a fringe. (The alternative, upscaling premultiplied colors, has to divide by alpha afterwards, which
    amplifies the network's errors where alpha is small.)
    pixels: uint8 or uint16 [H, W, 2 or 4] with alpha as the last channel, which is unchanged.
    """
    kept = pixels[:0]  # rows above this strip, before they were changed
    for top in range(0, len(pixels), _ROWS):
        strip = np.concatenate([kept, pixels[top : top + _ROWS + _COLOR_REACH]])
        kept = pixels[max(0, top + _ROWS - _COLOR_REACH) : top + _ROWS].copy()
        if 0 < np.count_nonzero(strip[..., -1]) < strip[..., -1].size:
            above = len(strip) - len(pixels[top : top + _ROWS + _COLOR_REACH])
            _extend(strip)
            pixels[top : top + _ROWS] = strip[above : above + _ROWS]


def _extend(pixels: np.ndarray) -> None:
    """`extend_colors` of one strip: a pixel's new color depends on others at most _COLOR_REACH away."""
    height, width = pixels.shape[:2]
    # A border of unknown pixels avoids special cases at the edges.
    colors = np.zeros((height + 2, width + 2, pixels.shape[2] - 1), pixels.dtype)
    colors[1:-1, 1:-1] = pixels[..., :-1]
    known = np.zeros((height + 2, width + 2), bool)
    known[1:-1, 1:-1] = pixels[..., -1] > 0
    inside = np.zeros_like(known)
    inside[1:-1, 1:-1] = True
    for _ in range(_COLOR_REACH):
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


def clip_to_neighbors(result: np.ndarray, alpha: np.ndarray, scale: int) -> np.ndarray:
    """Clip an upscaled alpha channel to the range of the 3×3 original pixels around each.

    Opaque and fully transparent areas therefore stay so. result: [scale·h, scale·w, 1]; alpha: [h, w, 1], same dtype.
    """
    around = np.pad(alpha[..., 0], 1, mode="edge")
    height, width = alpha.shape[:2]
    views = [around[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    low, high = (f.reduce(views).repeat(scale, 0).repeat(scale, 1)[..., None] for f in (np.minimum, np.maximum))
    return np.clip(result, low, high)
