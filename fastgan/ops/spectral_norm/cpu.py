"""Spectral normalization on the CPU: fastgan._cpu, float and double."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import memory_format
from fastgan.ops.spectral_norm.layout import cast, dense_weights, empty_weights, like_weights


def _why_not(weights: list[Tensor], *rest) -> str | None:
    dims = next(value for value in rest if isinstance(value, list) and isinstance(value[0], int))
    if any(dim > 1 and memory_format(w) is torch.channels_last for w, dim in zip(weights, dims, strict=True)):
        return "a channels_last weight has its rows along height or width"
    return why_no_cpp(weights[0])


def _layers(kernels, weights: list[Tensor], dims: list[int]):
    """The memory layout of each dense weight, as csrc/include/fastgan/spectral_norm.h describes it."""
    layers, at = [], 0
    for weight, dim in zip(weights, dims, strict=True):
        rows = weight.shape[dim]
        columns = weight.numel() // rows
        pixels = 1  # > 1 for a channels_last weight, whose columns are in another order than v's
        transposed = False
        segments, length = math.prod(weight.shape[:dim]), math.prod(weight.shape[dim + 1 :])
        if memory_format(weight) is torch.channels_last:
            if dim == 0:
                pixels = weight.shape[2] * weight.shape[3]
            else:  # [N, H, W, C] with rows of C: the transposed matrix, row by row, in v's order
                transposed = True
                segments, length = 1, rows
        layers.append(kernels.SpectralLayer(weight.data_ptr(), rows, columns, segments, length, pixels, transposed, at))
        at += rows + columns
    return layers


def power_iteration(weights, uv, dims, iterations, v_first, eps):
    kernels = native.cpu()
    weights = dense_weights(weights)
    new, sigma = uv.clone(memory_format=torch.contiguous_format), uv.new_empty(len(weights))
    kernels.power_iteration(
        _layers(kernels, weights, dims), CPP_DTYPES[uv.dtype], torch.get_num_threads(), iterations, v_first, eps,
        new.data_ptr(), sigma.data_ptr(),
    )  # fmt: skip
    return new, sigma


def spectral_scale(weights, uv, sigma, dims):
    kernels = native.cpu()
    weights = dense_weights(weights)
    sigma = sigma.contiguous()
    scaled = empty_weights(weights)
    kernels.spectral_scale(
        [w.data_ptr() for w in weights], [y.data_ptr() for y in scaled], [w.numel() for w in weights],
        CPP_DTYPES[uv.dtype], torch.get_num_threads(), sigma.data_ptr(),
    )  # fmt: skip
    return scaled


def spectral_normalize(weights, uv, dims, iterations, v_first, eps, dtype):
    uv, sigma = power_iteration(weights, uv, dims, iterations, v_first, eps)
    scaled = spectral_scale(weights, uv, sigma, dims)
    return [uv, sigma, *(scaled if dtype is None else cast(scaled, dtype))]


def spectral_scale_grad(dy, weights, uv, sigma, dims):
    kernels = native.cpu()
    weights = dense_weights(weights)
    dy = like_weights(dy, weights)
    dw = empty_weights(weights)
    uv, sigma = uv.contiguous(), sigma.contiguous()
    kernels.spectral_scale_grad(
        _layers(kernels, weights, dims), [g.data_ptr() for g in dy], [d.data_ptr() for d in dw],
        CPP_DTYPES[uv.dtype], torch.get_num_threads(), uv.data_ptr(), sigma.data_ptr(),
    )  # fmt: skip
    return dw


POWER_ITERATION = Kernel("cpp", power_iteration, _why_not)
NORMALIZE = Kernel("cpp", spectral_normalize, _why_not)
SCALE = Kernel("cpp", spectral_scale, _why_not)
SCALE_GRAD = Kernel("cpp", spectral_scale_grad, lambda dy, *rest: _why_not(*rest))
