"""Spectral normalization in CUDA C++: launches the kernels of csrc/cuda/spectral_norm.cuh, one for each op.

The kernels get addresses and layouts of all weights in their argument, so that neither a call nor the replay of a CUDA
graph copies a table to the device.
"""

from __future__ import annotations

import functools
import struct
from array import array
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.ops import _cuda
from fastgan.ops._launch import blocks
from fastgan.ops._library import Kernel
from fastgan.ops.spectral_norm.layout import (
    MatrixLayout,
    WeightShape,
    dense_weights,
    empty_weights,
    like_weights,
    matrix_layout,
    weight_shapes,
    why_no_matrix,
)

FAMILY = "spectral_norm"
ELEMENTS = {torch.float32: "float", torch.float64: "double"}
THREADS, SCALE_THREADS = 512, 128

# Constants and structures of csrc/cuda/spectral_tiles.cuh.
MAX_LAYERS = 60
TILE_ROWS, TILE_COLUMNS, SLICE = 16, 128, 128
_TRANSPOSED, _SEGMENTED, _CHANNELS_LAST, _VECTOR = 1, 2, 4, 8
_LAYER = struct.Struct("=8iq")
_REST = struct.Struct("=6Qd8i")
_OUTPUTS = {torch.bfloat16: 2, torch.float16: 3}
_FACTORS = 32  # bytes of a layer's factors in shared memory


@dataclass(frozen=True, eq=False)
class LaunchPlan:
    """Up to MAX_LAYERS weights of a group, which one launch processes: a function of their shapes."""

    begin: int  # their range in the group
    end: int
    layers: bytes  # SpectralLayer[MAX_LAYERS]
    tiles: int
    slices: int
    sums: int  # entries of all partial sums


def _flags(matrix: MatrixLayout, itemsize: int) -> int:
    if matrix.transposed:
        flags, run = _TRANSPOSED, matrix.columns
    elif matrix.v_inner > 1:
        flags, run = _CHANNELS_LAST, matrix.columns
    elif matrix.inner < matrix.columns:
        flags, run = _SEGMENTED, matrix.inner
    else:
        flags, run = 0, matrix.columns
    return flags if run * itemsize % 16 else flags | _VECTOR


@functools.lru_cache(maxsize=256)
def make_launch_plans(shapes: tuple[WeightShape, ...], itemsize: int) -> tuple[LaunchPlan, ...]:
    plans, at = [], 0
    for begin in range(0, len(shapes), MAX_LAYERS):
        some = shapes[begin : begin + MAX_LAYERS]
        layers, tiles, slices, sums = b"", 0, 0, 0
        for matrix in map(matrix_layout, some):
            rows, columns = matrix.rows, matrix.columns
            across, down = blocks(columns, TILE_COLUMNS), blocks(rows, TILE_ROWS)
            layers += _LAYER.pack(rows, columns, matrix.inner, _flags(matrix, itemsize), at, tiles, slices, 0, sums)
            at += rows + columns
            tiles += across * down
            slices += blocks(rows, SLICE) + blocks(columns, SLICE)
            sums += across * rows + down * columns
        layers = layers.ljust(_LAYER.size * MAX_LAYERS, b"\0")
        plans.append(LaunchPlan(begin, begin + len(some), layers, tiles, slices, sums))
    return tuple(plans)


def shared_bytes(slots: int, itemsize: int) -> int:
    """The shared memory of a block that has room for that many tiles."""
    numbers = SLICE + max(THREADS, SLICE) + slots * TILE_ROWS * TILE_COLUMNS
    return MAX_LAYERS * _FACTORS + numbers * itemsize


def _pointers(tensors: list[Tensor] | None) -> array[int]:
    numbers = array("Q", [t.data_ptr() for t in tensors or ()])
    return numbers + array("Q", bytes(8 * (MAX_LAYERS - len(numbers))))


def _launch(
    name: str,
    plan: LaunchPlan,
    weights: list[Tensor],
    out: list[Tensor] | None,
    dy: list[Tensor] | None,
    vectors: tuple[Tensor, Tensor, Tensor],
    iteration: tuple[int, bool, float] = (0, False, 0.0),
    cooperative: bool = True,
) -> None:
    """vectors: uv, new uv, sigma. iteration: iterations, v_first, eps."""
    uv, new, sigma = vectors
    iterations, v_first, eps = iteration
    device, itemsize = uv.device, uv.element_size()
    kernels = _cuda.kernels(FAMILY, device)
    if cooperative:  # the blocks wait for each other, so each has a multiprocessor
        threads, grid, counter = THREADS, min(plan.tiles, kernels.multiprocessors), _cuda.counters.get(device)
        room = (kernels.shared - shared_bytes(0, itemsize)) // (TILE_ROWS * TILE_COLUMNS * itemsize)
        slots = min(blocks(plan.tiles, grid), room)
        shared, partial = shared_bytes(slots, itemsize), 8 * max(plan.tiles, plan.slices)
    else:
        threads, grid, counter = SCALE_THREADS, blocks(plan.tiles, SCALE_THREADS // 32), 0
        slots = shared = partial = 0
    scratch = torch.empty(partial + plan.sums * itemsize if cooperative else 0, dtype=torch.uint8, device=device)
    first = scratch.data_ptr()
    output = 0 if out is None else _OUTPUTS.get(out[0].dtype, 1)
    part = slice(plan.begin, plan.end)
    pointers = [_pointers(None if tensors is None else tensors[part]) for tensors in (weights, out, dy)]
    aligned = not any(address % 16 for column in pointers for address in column)
    rest = _REST.pack(
        uv.data_ptr(), new.data_ptr(), sigma.data_ptr() + plan.begin * itemsize, first + partial, first,
        counter, eps,
        plan.end - plan.begin, plan.tiles, plan.slices, slots, iterations, v_first, aligned, output,
    )  # fmt: skip
    argument = b"".join([*(column.tobytes() for column in pointers), plan.layers, rest])
    kernels.launch(f"{name}_{ELEMENTS[uv.dtype]}", grid, threads, shared, cooperative, argument)


def power_iteration(weights, uv, dims, iterations, v_first, eps):
    plans = make_launch_plans(weight_shapes(weights, dims), uv.element_size())
    weights, uv = dense_weights(weights), uv.contiguous()
    new, sigma = torch.empty_like(uv), uv.new_empty(len(weights))
    for plan in plans:
        _launch("power_iteration", plan, weights, None, None, (uv, new, sigma), (iterations, v_first, eps))
    return new, sigma


def spectral_normalize(weights, uv, dims, iterations, v_first, eps, dtype):
    plans = make_launch_plans(weight_shapes(weights, dims), uv.element_size())
    weights, uv = dense_weights(weights), uv.contiguous()
    new, sigma, scaled = torch.empty_like(uv), uv.new_empty(len(weights)), empty_weights(weights, dtype)
    for plan in plans:
        _launch("power_iteration", plan, weights, scaled, None, (uv, new, sigma), (iterations, v_first, eps))
    return [new, sigma, *scaled]


def spectral_scale(weights, uv, sigma, dims):
    plans = make_launch_plans(weight_shapes(weights, dims), sigma.element_size())
    weights, sigma = dense_weights(weights), sigma.contiguous()
    scaled = empty_weights(weights)
    for plan in plans:
        _launch("spectral_scale", plan, weights, scaled, None, (uv, uv, sigma), cooperative=False)
    return scaled


def spectral_scale_grad(dy, weights, uv, sigma, dims):
    plans = make_launch_plans(weight_shapes(weights, dims), uv.element_size())
    weights, uv, sigma = dense_weights(weights), uv.contiguous(), sigma.contiguous()
    dy, dw = like_weights(dy, weights), empty_weights(weights)
    for plan in plans:
        _launch("spectral_scale_grad", plan, weights, dw, dy, (uv, uv, sigma))
    return dw


def _why_not(weights: list[Tensor], dims: list[int]) -> str | None:
    return _cuda.why_not(FAMILY, weights[0], ELEMENTS) or why_no_matrix(weight_shapes(weights, dims))


POWER_ITERATION = Kernel("cuda", power_iteration, lambda weights, uv, dims, *_: _why_not(weights, dims))
NORMALIZE = Kernel("cuda", spectral_normalize, lambda weights, uv, dims, *_: _why_not(weights, dims))
SCALE = Kernel("cuda", spectral_scale, lambda weights, uv, sigma, dims: _why_not(weights, dims))
SCALE_GRAD = Kernel("cuda", spectral_scale_grad, lambda dy, weights, uv, sigma, dims: _why_not(weights, dims))
