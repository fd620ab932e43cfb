"""norm_penalty in Triton: launches the kernels of triton_kernels.py, which is imported at the first launch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._launch import FP_FUSION, blocks, on, power_of_two, why_no_triton
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import dense, empty, memory_format
from fastgan.ops.norm_penalty.reference import accumulation_dtype

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_BLOCK = 1024  # elements that a program loads at a time
_REPEATS = 8  # blocks that a program of a sum processes, so that there are few partial sums


def _why_not(x: Tensor, *_) -> str | None:
    # Samples are the second axis of a grid, which CUDA limits.
    return "more than 65,535 samples" if x.shape[0] > 65_535 else why_no_triton(x, _FLOATS)


def _kernels():
    from fastgan.ops.norm_penalty import triton_kernels

    return triton_kernels


def _wide(x: Tensor, *size: int) -> Tensor:
    return torch.empty(size, dtype=accumulation_dtype(x.dtype), device=x.device)


def _partial_dots(a: Tensor, b: Tensor) -> tuple[Tensor, int]:
    """Partial sums [N, chunks] and the block size that adds them. a and b are dense in one layout."""
    samples, size = a.shape[0], a[0].numel()
    chunks = blocks(size, _BLOCK * _REPEATS)
    partial = _wide(a, samples, chunks)
    if chunks:
        _kernels().sample_dot_kernel[(chunks, samples)](
            a, b, partial, size, chunks, REPEATS=_REPEATS, DOUBLE=a.dtype == torch.float64, BLOCK=_BLOCK, **FP_FUSION
        )
    return partial, min(_BLOCK, power_of_two(chunks))


def norm_penalty(g, target):
    g = dense(g, memory_format(g))
    samples = g.shape[0]
    value, slope, size = (_wide(g, samples) for _ in range(3))
    if samples:
        with on(g):
            partial, block = _partial_dots(g, g)
            _kernels().penalty_finish_kernel[(samples,)](
                partial, value, slope, size, partial.shape[1],
                HAS_TARGET=target is not None, TARGET=float(target or 0), BLOCK=block, **FP_FUSION,
            )  # fmt: skip
    return value, slope, size


def sample_scale(a, c):
    layout = memory_format(a)
    a, c, y = dense(a, layout), c.contiguous(), empty(a, layout)
    if a.numel():
        size = a[0].numel()
        with on(a):
            _kernels().sample_scale_kernel[(blocks(size, _BLOCK), a.shape[0])](
                a, c, y, size, DOUBLE=a.dtype == torch.float64, BLOCK=_BLOCK, **FP_FUSION
            )
    return y


def sample_dot(a, b):
    layout = memory_format(a)
    a, b = dense(a, layout), dense(b, layout)
    result = _wide(a, a.shape[0])
    if a.shape[0]:
        with on(a):
            partial, block = _partial_dots(a, b)
            _kernels().dot_finish_kernel[(a.shape[0],)](partial, result, partial.shape[1], BLOCK=block, **FP_FUSION)
    return result


NORM_PENALTY = Kernel("triton", norm_penalty, _why_not)
SAMPLE_SCALE = Kernel("triton", sample_scale, _why_not)
SAMPLE_DOT = Kernel("triton", sample_dot, _why_not)
