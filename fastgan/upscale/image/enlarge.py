"""A picture of any kind through a network of three channels, or one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from fastgan._util.memory import free_host_memory
from fastgan.errors import FastganError, UsageError
from fastgan.runtime.spec import Spec
from fastgan.upscale import tiles
from fastgan.upscale.image.alpha import extend_colors, within_neighbors

_SMALL_GPU = 6_000_000_000


class Upscaler(Protocol):
    """What is asked of a session: `fastgan.runtime.Session` of an image-to-image network is one."""

    @property
    def spec(self) -> Spec: ...

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Height and width, where the model takes images of one size only."""
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
        raise UsageError("model: expected a network from images to images, got a generator from latents")
    if spec.channels not in (1, 3):
        raise UsageError(f"model: expected a network of 1 or 3 channels, got one of {spec.channels}")


def cutting(session: Upscaler, tile: int | str) -> tiles.Cutting:
    """How pictures are cut for a session. tile: side in pixels, 0 for none, or "auto" for what the free memory allows.

    Raises UsageError for anything else, and for tiles that the model cannot take.
    """
    least = tiles.least_side(session.spec)
    if tile != "auto" and (not isinstance(tile, int) or (tile != 0 and tile < least)):
        raise UsageError(f"tile: expected auto, 0 (none) or a number >= {least}, got {tile}")
    if session.fixed is not None:
        height, width = session.fixed
        if tile != "auto":
            raise UsageError(f"tile: this model takes images of {width}×{height} only, and so do tiles; got {tile}")
        if min(session.fixed) < least:
            raise UsageError(f"model: expected one for tiles of {least}×{least} or more, got one for {width}×{height}")
        return tiles.Cutting(session.fixed, exact=True)
    if tile == "auto":
        return tiles.fitting(session.spec, _free(session.device))
    return tiles.Cutting((tile, tile)) if isinstance(tile, int) and tile else tiles.Cutting()


def _free(device: str) -> int:
    """Bytes free where the session runs. Of a GPU, only torch can tell; without, it is taken for a small one."""
    if device == "cpu":
        return free_host_memory()
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return _SMALL_GPU
    return torch.cuda.mem_get_info(device)[0]


def enlarge(
    session: Upscaler, pixels: np.ndarray, plan: tiles.Plan, tick: Callable[[], None] = lambda: None
) -> Iterator[np.ndarray]:
    """The rows of the enlarged picture, in strips [h, scale·W, C] of the same dtype.

    pixels: uint8 or uint16 [H, W, C] with C 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha). Gray goes through a
    network of three channels as three equal ones, and colors through a network of one channel by channel. Under
    transparent pixels, colors are changed in place. tick: called after every tile.
    """
    eight = pixels.dtype == np.uint8
    bare = _eight_bits(session) if eight else _sixteen_bits(session)
    network = _of_any_channels(bare, session.spec)
    if pixels.shape[2] in (2, 4):
        extend_colors(pixels)
    return tiles.strips(pixels, network, plan, tick)


Network = Callable[[np.ndarray], np.ndarray]


def _eight_bits(session: Upscaler) -> Network:
    return lambda tile: session.pixels(np.ascontiguousarray(tile)[None])[0]


def _sixteen_bits(session: Upscaler) -> Network:
    low, high = session.spec.range

    def network(tile: np.ndarray) -> np.ndarray:
        x = tile.transpose(2, 0, 1)[None].astype(np.float32) * np.float32((high - low) / 65535) + np.float32(low)
        y = np.asarray(session(x))[0].transpose(1, 2, 0)
        if not np.isfinite(y).all():
            raise FastganError("the network gave values that are no numbers (NaN or infinite); try another precision")
        return np.rint(np.clip((y - low) / (high - low), 0, 1) * 65535).astype(np.uint16)

    return network


def _of_any_channels(bare: Network, spec: Spec) -> Network:
    """A network of any number of channels, from one of spec.channels."""

    def gray(tile: np.ndarray) -> np.ndarray:
        if spec.channels == 1:
            return bare(tile)
        result = bare(np.repeat(tile, 3, axis=2)).astype(np.uint32)
        return ((result.sum(axis=2, keepdims=True) + 1) // 3).astype(tile.dtype)

    def colors(tile: np.ndarray) -> np.ndarray:
        if tile.shape[2] == 1:
            return gray(tile)
        if spec.channels == 3:
            return bare(tile)
        return np.concatenate([bare(tile[..., i : i + 1]) for i in range(3)], axis=2)

    def alpha(tile: np.ndarray) -> np.ndarray:
        if (tile == tile[0, 0, 0]).all():  # mostly so, and then half of the work is spared
            return np.full((tile.shape[0] * spec.scale, tile.shape[1] * spec.scale, 1), tile[0, 0, 0], tile.dtype)
        return within_neighbors(gray(tile), tile, spec.scale)

    def network(tile: np.ndarray) -> np.ndarray:
        if tile.shape[2] in (1, 3):
            return colors(tile)
        return np.concatenate([colors(tile[..., :-1]), alpha(tile[..., -1:])], axis=2)

    return network
