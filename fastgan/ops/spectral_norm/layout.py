"""The memory of a weight as a matrix, as the GPU kernels read it."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format


class WeightShape(NamedTuple):
    """The sizes of a weight, the dimension of its rows, and whether it is channels_last."""

    sizes: torch.Size
    dim: int
    channels_last: bool


class MatrixLayout(NamedTuple):
    """The matrix M [rows, columns] in memory: the weight's matrix W, or Wᵀ if transposed.

    Row r, column j = a · inner + b is at r · pitch + a · outer + b, and belongs to entry a · v_outer + b · v_inner of
    the vector over the columns. The vector over the rows is in their order.
    """

    rows: int
    columns: int
    transposed: bool
    pitch: int
    inner: int
    outer: int
    v_inner: int
    v_outer: int

    def is_wide(self, itemsize: int) -> bool:
        """Whether rows, and segments of a row in order, begin at multiples of 16 bytes if the matrix does."""
        return all(n * itemsize % 16 == 0 for n in (self.columns, self.pitch, self.inner, self.outer))


def weight_shapes(weights: list[Tensor], dims: list[int]) -> tuple[WeightShape, ...]:
    return tuple(
        WeightShape(w.shape, dim, memory_format(w) is torch.channels_last) for w, dim in zip(weights, dims, strict=True)
    )


def matrix_layout(shape: WeightShape) -> MatrixLayout:
    sizes, dim, channels_last = shape
    rows = sizes[dim]
    columns = math.prod(sizes) // rows
    length = math.prod(sizes[dim + 1 :])
    if channels_last and dim == 0:
        channels = sizes[1]
        return MatrixLayout(rows, columns, False, columns, channels, channels, columns // channels, 1)
    if channels_last or length == 1:
        return MatrixLayout(columns, rows, True, rows, rows, 0, 1, 0)
    return MatrixLayout(rows, columns, False, length, length, rows * length, 1, length)


@functools.lru_cache(maxsize=256)
def why_no_matrix(shapes: tuple[WeightShape, ...]) -> str | None:
    """None if the GPU kernels can read these weights, else the reason."""
    for i, (sizes, dim, channels_last) in enumerate(shapes):
        if channels_last and dim > 1:
            return f"weight {i} is channels_last and has its rows along dimension {dim}, not 0 or 1"
        if max(sizes[dim], math.prod(sizes) // sizes[dim]) >= 1 << 30:
            return f"weight {i} {list(sizes)} has 2^30 rows or columns"
    return None


def dense_weights(weights: list[Tensor]) -> list[Tensor]:
    return [dense(w, memory_format(w)) for w in weights]


def like_weights(tensors: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Each tensor in the dtype of its weight, dense in its layout."""
    tensors = [dense(t, memory_format(w)) for t, w in zip(tensors, weights, strict=True)]
    return cast(tensors, weights[0].dtype)


def empty_weights(weights: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Uninitialized tensors like the weights, dense in their layouts. dtype: None is the weights'."""
    return [torch.empty_like(w, dtype=dtype, memory_format=memory_format(w)) for w in weights]


def cast(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Dense tensors of one dtype in another one, in one launch on a GPU."""
    if tensors[0].dtype == dtype:
        return tensors
    results = [torch.empty_like(t, dtype=dtype) for t in tensors]
    torch._foreach_copy_(results, tensors)
    return results
