"""Spectral normalization in Triton: launches the kernels of triton_kernels.py, each for all weights of a group at once.

The kernels read a table on the device with the addresses, sizes and strides of each weight.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan._util import env
from fastgan.ops._launch import FP_FUSION, blocks, launch, on, why_no_triton
from fastgan.ops._library import Kernel
from fastgan.ops._tables import tables
from fastgan.ops.spectral_norm.layout import (
    MatrixLayout,
    WeightShape,
    cast,
    dense_weights,
    empty_weights,
    like_weights,
    matrix_layout,
    weight_shapes,
    why_no_matrix,
)

_FLOATS = (torch.float32, torch.float64)
_BLOCK_R, _BLOCK_C = 16, 128  # rows and columns that a program loads at a time
_REPEATS = 8  # such blocks that a program processes, so that there are few partial sums
_BLOCK_P = 8  # partial sums that are added at a time
_VECTOR = 1024  # entries of a vector that the last launch of an iteration loads at a time
_TILE = {"BLOCK_R": _BLOCK_R, "BLOCK_C": _BLOCK_C, "REPEATS": _REPEATS, **FP_FUSION}
_CHUNK = {"CHUNK": _BLOCK_R * _BLOCK_C, "REPEATS": _REPEATS, **FP_FUSION}


class VectorLayout(NamedTuple):
    """u or v of a weight, and the launch whose product it receives."""

    items: int  # the first program of that launch for this layer
    at: int  # the vector in uv
    size: int
    sums: int  # its partial sums [parts, size] in the scratch tensor
    parts: int


class WeightLayout(NamedTuple):
    """A weight in memory, and its part of each launch; triton_kernels.py describes the fields."""

    matrix: MatrixLayout
    tiles: int  # the first program of a launch over tiles of M, and of one over chunks of memory
    chunks: int
    u: VectorLayout
    v: VectorLayout


@dataclass(frozen=True, eq=False)
class LaunchPlan:
    """Layouts and launch sizes of a group of weights: a function of their shapes."""

    layers: tuple[WeightLayout, ...]
    scratch: int  # entries of all partial sums
    u_items: int  # programs of each launch
    v_items: int
    tiles: int
    chunks: int


@functools.lru_cache(maxsize=256)
def make_launch_plan(shapes: tuple[WeightShape, ...]) -> LaunchPlan:
    layers = []
    at = scratch = u_items = v_items = tiles = chunks = 0
    for shape in shapes:
        matrix = matrix_layout(shape)
        rows, columns, transposed = matrix[:3]
        across, down = blocks(columns, _BLOCK_C * _REPEATS), blocks(rows, _BLOCK_R * _REPEATS)
        # A program of M x has a block of rows and gives one of `across` parts of each; one of Mᵀ x has columns.
        left = rows, across, blocks(rows, _BLOCK_R) * across
        right = columns, down, blocks(columns, _BLOCK_C) * down
        (u_size, u_parts, u_more), (v_size, v_parts, v_more) = (right, left) if transposed else (left, right)
        u = VectorLayout(u_items, at, u_size, scratch, u_parts)
        scratch += u_size * u_parts
        v = VectorLayout(v_items, at + u_size, v_size, scratch, v_parts)
        scratch += v_size * v_parts
        layers.append(WeightLayout(matrix, tiles, chunks, u, v))
        at, u_items, v_items = at + u_size + v_size, u_items + u_more, v_items + v_more
        tiles += blocks(rows, _BLOCK_R) * across
        chunks += blocks(rows * columns, _BLOCK_R * _BLOCK_C * _REPEATS)
    return LaunchPlan(tuple(layers), scratch, u_items, v_items, tiles, chunks)


def _why_not(weights: list[Tensor], dims: list[int]) -> str | None:
    reason = why_no_triton(weights[0], _FLOATS)
    if reason is None and weights[0].is_cuda and env.flag("TRITON_INTERPRET"):
        reason = "Triton's interpreter cannot read addresses of a GPU"
    return reason or why_no_matrix(weight_shapes(weights, dims))


def _kernels():
    from fastgan.ops.spectral_norm import triton_kernels

    return triton_kernels


def _table(plan: LaunchPlan, weights: list[Tensor], dy: list[Tensor], out: list[Tensor]) -> Tensor:
    """The table: a row for each weight. Kernels that use no DY or OUT get the weights' addresses there."""
    addresses = tuple((w.data_ptr(), g.data_ptr(), y.data_ptr()) for w, g, y in zip(weights, dy, out, strict=True))

    def numbers() -> list[int]:
        rows = []
        for three, layer in zip(addresses, plan.layers, strict=True):
            wide = layer.matrix.is_wide(weights[0].element_size()) and not any(address % 16 for address in three)
            rows += [*three, *layer.matrix, layer.tiles, layer.chunks, wide, *layer.u, *layer.v]
        return list(map(int, rows))

    return tables.get(weights[0].device, (plan, addresses), numbers)


def _layers(plan: LaunchPlan) -> dict[str, int]:
    return {"layers": len(plan.layers), "LAYERS": 1 << (len(plan.layers) - 1).bit_length()}


def power_iteration(weights, uv, dims, iterations, v_first, eps):
    plan = make_launch_plan(weight_shapes(weights, dims))
    weights, uv = dense_weights(weights), uv.contiguous()
    sums, sigma = uv.new_empty(plan.scratch), uv.new_empty(len(weights))
    kernels = _kernels()
    vectors = {"BLOCK": _VECTOR, "BLOCK_P": _BLOCK_P, "num_warps": 8, **FP_FUSION}

    def product(table: Tensor, vector: Tensor, to_u: bool, from_sums: bool) -> None:
        grid = (plan.u_items if to_u else plan.v_items,)
        launch(kernels.spectral_product_kernel, grid)(
            table, uv=vector, sums=sums, TO_U=to_u, FROM_SUMS=from_sums, BLOCK_P=_BLOCK_P, **_layers(plan), **_TILE
        )

    with on(uv):
        table = _table(plan, weights, weights, weights)
        if iterations == 0:
            product(table, uv, to_u=True, from_sums=False)
            launch(kernels.spectral_sigma_kernel, (len(weights),))(table, sums, uv, sigma, **vectors)
            return uv.clone(), sigma
        new = torch.empty_like(uv)
        for i in range(iterations):
            product(table, new if i else uv, to_u=not v_first, from_sums=False)
            product(table, new if i else uv, to_u=v_first, from_sums=True)
            launch(kernels.spectral_finish_kernel, (len(weights),))(
                table, sums, uv, new, sigma, U_FIRST=not v_first, LAST=i == iterations - 1, EPS=eps, **vectors
            )
    return new, sigma


def spectral_scale(weights, uv, sigma, dims):
    plan = make_launch_plan(weight_shapes(weights, dims))
    weights, sigma = dense_weights(weights), sigma.contiguous()
    scaled = empty_weights(weights)
    with on(sigma):
        table = _table(plan, weights, weights, scaled)
        launch(_kernels().spectral_scale_kernel, (plan.chunks,))(table, sigma=sigma, **_layers(plan), **_CHUNK)
    return scaled


def spectral_normalize(weights, uv, dims, iterations, v_first, eps, dtype):
    uv, sigma = power_iteration(weights, uv, dims, iterations, v_first, eps)
    scaled = spectral_scale(weights, uv, sigma, dims)
    return [uv, sigma, *(scaled if dtype is None else cast(scaled, dtype))]


def spectral_scale_grad(dy, weights, uv, sigma, dims):
    plan = make_launch_plan(weight_shapes(weights, dims))
    weights = dense_weights(weights)
    dy, dw = like_weights(dy, weights), empty_weights(weights)
    uv, sigma, partial = uv.contiguous(), sigma.contiguous(), sigma.new_empty(plan.chunks)
    with on(uv):
        table = _table(plan, weights, dy, dw)
        launch(_kernels().spectral_inner_kernel, (plan.chunks,))(table, partial=partial, **_layers(plan), **_CHUNK)
        launch(_kernels().spectral_grad_kernel, (plan.tiles,))(
            table, uv=uv, sigma=sigma, partial=partial, **_layers(plan), **_TILE
        )
    return dw


POWER_ITERATION = Kernel("triton", power_iteration, lambda weights, uv, dims, *_: _why_not(weights, dims))
NORMALIZE = Kernel("triton", spectral_normalize, lambda weights, uv, dims, *_: _why_not(weights, dims))
SCALE = Kernel("triton", spectral_scale, lambda weights, uv, sigma, dims: _why_not(weights, dims))
SCALE_GRAD = Kernel("triton", spectral_scale_grad, lambda dy, weights, uv, sigma, dims: _why_not(weights, dims))
