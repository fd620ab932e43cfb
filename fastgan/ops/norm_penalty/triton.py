"""norm_penalty in Triton: launches the kernels of triton_kernels.py, which is imported at the first launch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._launch import FP_FUSION, blocks, launch, on, power_of_two, why_no_triton
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import dense, empty, memory_format
from fastgan.ops.norm_penalty.reference import accumulation_dtype

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_BLOCK = 1024  # elements that a program loads at a time
_CHUNK = 8 * _BLOCK  # elements that a program of a sum processes, so that there are few partial sums
_ONE_LAUNCH = 8 * _CHUNK  # a sample of up to that many elements takes one program less time than a second launch


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_triton(x, _FLOATS)


def _kernels():
    from fastgan.ops.norm_penalty import triton_kernels

    return triton_kernels


def _wide(x: Tensor, *size: int) -> Tensor:
    return torch.empty(size, dtype=accumulation_dtype(x.dtype), device=x.device)


def chunk(size: int) -> int:
    """How many elements of a sample of that size a program adds up: all, or some that leave a second launch to do."""
    return size if size <= _ONE_LAUNCH else _CHUNK


def _partial_dots(a: Tensor, b: Tensor) -> Tensor:
    """Partial sums [N, chunks] of samples that are not empty. a and b are dense in one layout."""
    samples, size = a.shape[0], a[0].numel()
    chunks = blocks(size, chunk(size))
    partial = _wide(a, samples, chunks)
    launch(_kernels().sample_dot_kernel, (chunks * samples,))(
        a, b, partial, size, chunk(size), chunks, DOUBLE=a.dtype == torch.float64, BLOCK=_BLOCK, **FP_FUSION
    )
    return partial


def _finish_block(chunks: int) -> int:
    return min(_BLOCK, power_of_two(chunks))


def norm_penalty(g, target):
    g = dense(g, memory_format(g))
    samples = g.shape[0]
    value, slope, norm = (_wide(g, samples) for _ in range(3))
    if not samples:
        return value, slope, norm
    size = g[0].numel()
    penalty = {"HAS_TARGET": target is not None, "TARGET": float(target or 0), **FP_FUSION}
    with on(g):
        if size == chunk(size):
            launch(_kernels().penalty_kernel, (samples,))(
                g, value, slope, norm, size, DOUBLE=g.dtype == torch.float64, BLOCK=_BLOCK, **penalty
            )
        else:
            partial = _partial_dots(g, g)
            chunks = partial.shape[1]
            launch(_kernels().penalty_finish_kernel, (samples,))(
                partial, value, slope, norm, chunks, BLOCK=_finish_block(chunks), **penalty
            )
    return value, slope, norm


def sample_scale(a, c):
    layout = memory_format(a)
    a, c, y = dense(a, layout), c.contiguous(), empty(a, layout)
    if a.numel():
        size = a[0].numel()
        with on(a):
            launch(_kernels().sample_scale_kernel, (blocks(size, _BLOCK) * a.shape[0],))(
                a, c, y, size, DOUBLE=a.dtype == torch.float64, BLOCK=_BLOCK, **FP_FUSION
            )
    return y


def sample_dot(a, b):
    layout = memory_format(a)
    a, b = dense(a, layout), dense(b, layout)
    if not a.numel():
        return _wide(a, a.shape[0]).zero_()
    with on(a):
        partial = _partial_dots(a, b)
        samples, chunks = partial.shape
        if chunks == 1:
            return partial.view(samples)
        result = _wide(a, samples)
        launch(_kernels().dot_finish_kernel, (samples,))(
            partial, result, chunks, BLOCK=_finish_block(chunks), **FP_FUSION
        )
    return result


NORM_PENALTY = Kernel("triton", norm_penalty, _why_not)
SAMPLE_SCALE = Kernel("triton", sample_scale, _why_not)
SAMPLE_DOT = Kernel("triton", sample_dot, _why_not)
