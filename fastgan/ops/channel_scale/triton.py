"""channel_scale, channel_dot and scale_noise_bias_act in Triton: launches the kernels of triton_kernels.py, which is
imported at the first launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan.ops._launch import FP_FUSION, blocks, launch, on, power_of_two, why_no_triton
from fastgan.ops._library import planned
from fastgan.ops._memory_format import allocator, memory_format, view_ncs
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.bias_act.triton import act_constants, add_rows

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TILE = 2048  # elements that a program loads at a time
_MOST_TILES = 16  # so many of a sum in one program cost less than a second launch
_PROGRAMS = 1024  # of a sum over many pixels: several for each multiprocessor
_MOST = 2**31 - 2 * _TILE  # pixels and channels are counted in 32 bits


def _why_not(x: Tensor, *_) -> str | None:
    images, channels, pixels = view_ncs(x)
    if max(channels, pixels) > _MOST or images * blocks(channels, _TILE) * blocks(pixels, _TILE) > _MOST:
        return f"the Triton kernels take up to {_MOST:,} channels, pixels, and tiles of all samples"
    return why_no_triton(x, _FLOATS)


def _kernels():
    from fastgan.ops.channel_scale import triton_kernels

    return triton_kernels


def tile(channels: int, pixels: int, channel_is_fast: bool) -> tuple[int, int]:
    """(pixels, channels) of a program's tile: a pure function of the sizes, so that results are reproducible."""
    if channel_is_fast:
        high = min(_TILE // min(128, power_of_two(channels)), power_of_two(pixels))
        return high, min(_TILE // high, power_of_two(channels))
    wide = min(512, power_of_two(pixels))
    return wide, min(_TILE // wide, power_of_two(channels))


def chunks(samples: int, across: int, pixels: int, block: int) -> tuple[int, int]:
    """Of a sum over pixels with `across` blocks of channels: (pixels of a program, number of those)."""
    wanted = min(blocks(pixels, _MOST_TILES * block), max(1, _PROGRAMS // (samples * across)))
    chunk = blocks(blocks(pixels, block), wanted) * block
    return chunk, blocks(pixels, chunk)


def _geometry(x: Tensor, layout: torch.memory_format) -> tuple[int, int, dict[str, Any], Callable[[], Tensor]]:
    """Channels, pixels, a kernel's constants, and what allocates a tensor like x."""
    _, channels, pixels = view_ncs(x)
    fast = layout is torch.channels_last or pixels == 1
    block_p, block_c = tile(channels, pixels, fast)
    constants = {
        "CHANNEL_IS_FAST": fast, "DOUBLE": x.dtype == torch.float64, "BLOCK_P": block_p, "BLOCK_C": block_c,
        **FP_FUSION,
    }  # fmt: skip
    return channels, pixels, constants, allocator(x.shape, x.dtype, x.device, layout)


def _sums(partial: Tensor) -> Tensor:
    """[N, parts, C] summed over the parts in order. Launches on the current device."""
    if partial.shape[1] == 1:
        return partial[:, 0]
    total = partial.new_empty(partial.shape[0], partial.shape[2])
    add_rows(partial, total)
    return total


def _plan_forward(x, noise, bias, alpha, gain, clamp):
    """run(x, scale, noise, bias)"""
    layout = memory_format(x)
    channels, pixels, constants, empty = _geometry(x, layout)
    constants = act_constants("linear" if alpha == 1 else "leaky_relu", alpha, gain, clamp) | constants
    constants |= {"HAS_NOISE": noise is not None, "HAS_BIAS": bias is not None}
    constants["ONE_NOISE"] = noise is not None and noise.shape[0] == 1
    programs = x.shape[0] * blocks(channels, constants["BLOCK_C"]) * blocks(pixels, constants["BLOCK_P"])

    def run(x, scale, noise=None, bias=None, *_):
        x, scale, y = x.contiguous(memory_format=layout), scale.contiguous(), empty()
        noise, bias = (scale if t is None else t.contiguous() for t in (noise, bias))
        if programs:
            with on(x):
                launch(_kernels().scaled_fwd_kernel, (programs,))(
                    x, scale, noise, bias, y, channels, pixels, **constants
                )
        return y

    return run


def plan_scale(x, scale):
    return _plan_forward(x, None, None, 1.0, 1.0, None)


def plan_forward(x, scale, noise, bias, alpha, gain, clamp):
    return _plan_forward(x, noise, bias, alpha, gain, clamp)


def plan_dot(a, b):
    layout = memory_format(a)
    channels, pixels, constants, _ = _geometry(a, layout)
    samples, dtype, device = a.shape[0], accumulation_dtype(a.dtype), a.device
    if not a.numel():
        return lambda a, b: torch.zeros((samples, channels), dtype=dtype, device=device)
    across = blocks(channels, constants["BLOCK_C"])
    chunk, parts = chunks(samples, across, pixels, constants["BLOCK_P"])

    def run(a, b):
        a, b = a.contiguous(memory_format=layout), b.contiguous(memory_format=layout)
        partial = torch.empty((samples, parts, channels), dtype=dtype, device=device)
        with on(a):
            launch(_kernels().channel_dot_kernel, (samples * parts * across,))(
                a, b, partial, channels, pixels, chunk, parts, **constants
            )
            return _sums(partial)

    return run


def plan_grad(dy, saved, x, scale, alpha, gain, clamp, scale_grad, noise_grad, bias_grad):
    layout = memory_format(saved)
    channels, pixels, constants, empty = _geometry(dy, layout)
    constants = act_constants("linear" if alpha == 1 else "leaky_relu", alpha, gain, clamp) | constants
    constants |= {"SCALE_GRAD": scale_grad, "NOISE_GRAD": noise_grad, "BIAS_GRAD": bias_grad}
    samples, parts = dy.shape[0], blocks(pixels, constants["BLOCK_P"])
    programs = samples * parts * (1 if noise_grad else blocks(channels, constants["BLOCK_C"]))
    allocate = {"dtype": accumulation_dtype(dy.dtype), "device": dy.device}
    n, c, *size = dy.shape
    noise_size, part = (n, 1, *size) if noise_grad else (0,), (samples, parts, channels)
    if not dy.numel():
        sizes = (n, c) if scale_grad else (0,), noise_size, (c,) if bias_grad else (0,)
        return lambda *_: (empty(), *(torch.zeros(size, **allocate) for size in sizes))

    def run(dy, saved, x, scale, *_):
        dy, saved, x = (t.contiguous(memory_format=layout) for t in (dy, saved, x))
        scale, dx, dnoise = scale.contiguous(), empty(), torch.empty(noise_size, **allocate)
        dots, sums = (torch.empty(part if wanted else (0,), **allocate) for wanted in (scale_grad, bias_grad))
        with on(dy):
            launch(_kernels().scaled_bwd_kernel, (programs,))(
                dy, saved, x, scale, dx, dots, sums, dnoise, channels, pixels, **constants
            )
            dscale = _sums(dots) if scale_grad else dots
            db = _sums(sums.view(1, samples * parts, channels)).view(channels) if bias_grad else sums
        return dx, dscale, dnoise, db

    return run


SCALE = planned("triton", plan_scale, _why_not)
DOT = planned("triton", plan_dot, _why_not)
FORWARD = planned("triton", plan_forward, _why_not)
GRAD = planned("triton", plan_grad, _why_not)
