"""Tile sizes and launch options of the Triton convolutions: which ones are candidates for a product on a GPU.

Pure functions of sizes and of the GPU's limits, so that candidates can be listed and compiled without a GPU.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fastgan.ops._launch import blocks, power_of_two


class Config(NamedTuple):
    """The tile sizes and launch options of a kernel. Any config is correct for any shape.

    splits: how many programs share the sum of an output tile; if several, a second kernel adds their partial sums in a
    fixed order. pad: whether the input is first copied with its few channels padded, so that a pixel is one wide load.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    splits: int = 1
    pad: bool = False

    def __str__(self) -> str:
        tile = f"{self.block_m}x{self.block_n}x{self.block_k}w{self.warps}s{self.stages}"
        return tile + (f"k{self.splits}" if self.splits > 1 else "") + ("p" if self.pad else "")


@dataclass(frozen=True)
class Gpu:
    """The limits of a GPU that decide about candidates. processors: streaming multiprocessors. shared: bytes of shared
    memory that a program can have."""

    processors: int
    shared: int


#: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": shared memory of a thread block.
SHARED = {
    (7, 0): 96,
    (7, 5): 64,
    (8, 0): 163,
    (8, 6): 99,
    (8, 7): 163,
    (8, 9): 99,
    (9, 0): 227,
    (10, 0): 227,
    (10, 3): 227,
}
SMALLEST_SHARED = 99  # KB, of GPUs that are not in the list (consumer Blackwell)


def shared_memory(capability: tuple[int, int]) -> int:
    """Bytes of shared memory that a program can have on a GPU of that compute capability."""
    return SHARED.get(capability, SMALLEST_SHARED) * 1024


@functools.cache
def gpu(index: int) -> Gpu:
    """The limits of that CUDA device."""
    properties = torch.cuda.get_device_properties(index)
    return Gpu(properties.multi_processor_count, shared_memory((properties.major, properties.minor)))


#: For 16-bit numbers; block_k of wider ones is as many bytes. The accumulators fit into registers.
CONFIGS = (
    Config(128, 256, 64, 8, 4),
    Config(128, 256, 64, 8, 3),
    Config(128, 128, 64, 8, 6),
    Config(128, 128, 64, 8, 4),
    Config(128, 128, 64, 8, 3),
    Config(128, 64, 64, 4, 6),
    Config(128, 64, 64, 8, 3),
    Config(64, 128, 64, 4, 4),
    Config(64, 64, 64, 4, 4),
    Config(128, 32, 64, 4, 4),
    Config(64, 32, 64, 4, 4),
    Config(128, 16, 64, 4, 4),
    Config(32, 16, 64, 2, 5),
)
#: Few large programs: the interpreter takes a millisecond for each, whatever its size.
INTERPRETED = Config(1024, 64, 64, 1, 1)
FLATTENED = 16  # fewer channels than this share an index with the taps: tl.dot takes at least 16
_SHALLOW = 4  # iterations that a share of a split sum has at least
_MOST_SPLITS = 16
_MOST_SHARES = 256  # of a weight gradient, whose shares are added by rows
_WORKSPACE = 2**28  # bytes of partial sums at most


def shared_bytes(config: Config, itemsize: int) -> int:
    """Shared memory that the tiles of all stages take."""
    return (config.block_m + config.block_n) * config.block_k * config.stages * itemsize


def accumulators(dtype: torch.dtype, tf32: bool) -> int:
    """The largest output tile: doubles, and float32 outside tensor cores, need registers for operands too."""
    if dtype == torch.float64:
        return 64 * 64
    if dtype == torch.float32:
        return 128 * 128 if tf32 else 128 * 64
    return 128 * 256


def _sized(config: Config, dtype: torch.dtype) -> Config:
    """With block_k as many bytes for this dtype as for 16-bit numbers."""
    return config._replace(block_k=max(16, config.block_k * 2 // dtype.itemsize))


def _fitting(width: int, widest: int, dtype: torch.dtype, tf32: bool, device: Gpu) -> list[Config]:
    """Those whose tile suits that many columns and fits into the GPU: of each tile the deepest pipeline, and the
    deepest of which two programs fit."""
    block = max(16, power_of_two(width))
    least, most = min(128, block) // 2, min(widest, block)
    found: list[Config] = []
    for config in (_sized(c, dtype) for c in CONFIGS):
        size = shared_bytes(config, dtype.itemsize)
        same = [shared_bytes(c, dtype.itemsize) for c in found if c[:3] == config[:3]]
        limit = device.shared // 2 if same else device.shared
        if not least <= config.block_n <= most or size > limit or (same and min(same) <= limit):
            continue
        if config.block_m * config.block_n <= accumulators(dtype, tf32):
            found.append(config)
    return found


def configs(
    rows: int,
    outputs: int,
    depth: int,
    dtype: torch.dtype,
    device: Gpu,
    *,
    tf32: bool = False,
    few: bool = False,
    pad: bool = False,
    widest: int = 256,
) -> tuple[Config, ...]:
    """The candidates for a product of rows × outputs with sums over `depth` terms, probably best first.

    tf32: whether float32 products are rounded to TF32. few: whether the channels that are summed share an index with
    the taps; pad: whether padding them is a candidate. widest: the most columns of a tile.
    """
    fit = _fitting(outputs, min(widest, 64) if few else widest, dtype, tf32, device)
    if few:  # each row has offsets for each term, which take registers
        fit = [c for c in fit if c.block_m <= 16 * c.warps]
    tiles = {c: blocks(rows, c.block_m) * blocks(outputs, c.block_n) for c in fit}
    busy = [c for c in fit if tiles[c] >= device.processors]
    first = busy[0] if busy else fit[-1]
    ordered = [first, *(c for c in fit if c is not first)]
    split: list[Config] = []
    for c in ordered:
        most = min(_MOST_SPLITS, blocks(depth, c.block_k) // _SHALLOW, _most_in_workspace(rows * outputs, dtype))
        splits = min(most, device.processors // max(1, tiles[c]))
        if splits > 1 and len(split) < 2 and not any(s[:3] == c[:3] for s in split):
            split.append(c._replace(splits=splits))
    return (*ordered, *split, *(c._replace(pad=True) for c in ordered if pad))


def wgrad_configs(
    rows: int, outputs: int, channels: int, taps: int, dtype: torch.dtype, device: Gpu, *, tf32: bool = False
) -> tuple[Config, ...]:
    """The candidates for a weight gradient [outputs, taps, channels] with sums over `rows` pixels.

    Sums are long and results small, so that programs share the sums until the GPU is busy. A tile covers one tap; with
    `pad`, a candidate for few channels, it covers several.
    """

    def shared(fit: list[Config], columns: int, repeats: int) -> list[Config]:
        height = max(power_of_two(outputs), min(c.block_m for c in fit))
        found = []
        for config in (c for c in fit if c.block_m <= height):
            tiles = blocks(outputs, config.block_m) * blocks(columns, config.block_n) * repeats
            most = min(_MOST_SHARES, blocks(rows, config.block_k) // _SHALLOW)
            most = min(most, _most_in_workspace(outputs * channels * taps, dtype))
            found.append(config._replace(splits=max(1, min(most, device.processors // tiles))))
        return found

    found = shared(_fitting(channels, 256, dtype, tf32, device), channels, taps)
    if channels < FLATTENED:
        columns = padded_channels(channels) * taps
        found += [c._replace(pad=True) for c in shared(_fitting(columns, 64, dtype, tf32, device), columns, 1)]
    return tuple(found)


def _most_in_workspace(elements: int, dtype: torch.dtype) -> int:
    return _WORKSPACE // max(1, elements * (8 if dtype == torch.float64 else 4))


def padded_channels(channels: int) -> int:
    """How many channels a pixel has once its few channels are padded for wide loads: a power of two."""
    return max(2, power_of_two(channels))
