"""bias_act in Triton: launches the kernels of triton_kernels.py, which is imported at the first launch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._launch import FP_FUSION, blocks, on, power_of_two, why_no_triton
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import dense, empty, memory_format, view_ncs
from fastgan.ops.bias_act.activations import ACTIVATIONS

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TILE = 2048  # elements that a program loads at a time
_REPEATS = 8  # tiles that a program of the gradient processes, so that there are few partial sums


def why_not(x: Tensor, *_) -> str | None:
    return why_no_triton(x, _FLOATS)


def _kernels():
    from fastgan.ops.bias_act import triton_kernels

    return triton_kernels


def tile(channels: int, rows: int, channel_is_fast: bool) -> tuple[int, int]:
    """(rows, channels) of a program's tile: a pure function of the shape, so that results are reproducible.

    If the channel is the fast axis, a tile spans a block of channels; else it spans pixels of one channel.
    """
    if not channel_is_fast:
        return min(_TILE, power_of_two(rows)), 1
    block_c = min(128, power_of_two(channels))
    return min(_TILE // block_c, power_of_two(rows)), block_c


def act_constants(act: str, alpha: float, gain: float, clamp: float | None):
    """The activation and its parameters, as constants of a kernel."""
    return {
        "ACT": ACTIVATIONS[act].code,
        "ALPHA": float(alpha),
        "GAIN": float(gain),
        "INVERSE_GAIN": 1.0 / gain,
        "HAS_CLAMP": clamp is not None,
        "CLAMP": 0.0 if clamp is None else float(clamp),
    }


def geometry(x: Tensor, layout: torch.memory_format, act: str, alpha: float, gain: float, clamp: float | None):
    """(rows, channels, pixels) for a kernel, and its constants."""
    images, channels, pixels = view_ncs(x)
    fast = layout is torch.channels_last or pixels == 1
    rows = images * pixels
    block_k, block_c = tile(channels, rows, fast)
    constants = {
        **act_constants(act, alpha, gain, clamp),
        "CHANNEL_IS_FAST": fast,
        "DOUBLE": x.dtype == torch.float64,
        "BLOCK_K": block_k,
        "BLOCK_C": block_c,
        **FP_FUSION,
    }
    return (rows, channels, pixels), constants


def bias_act(x, bias, act, alpha, gain, clamp):
    layout = memory_format(x)
    x, y = dense(x, layout), empty(x, layout)
    _forward(x, bias, y, layout, act, alpha, gain, clamp)
    return y


def bias_act_(y, bias, act, alpha, gain, clamp):
    """bias_act in place of y, a dense tensor that nothing else refers to."""
    _forward(y, bias, y, memory_format(y), act, alpha, gain, clamp)


def _forward(x, bias, y, layout, act, alpha, gain, clamp):
    if not x.numel():
        return
    (rows, channels, pixels), constants = geometry(x, layout, act, alpha, gain, clamp)
    grid = (blocks(rows, constants["BLOCK_K"]), blocks(channels, constants["BLOCK_C"]))
    with on(x):
        _kernels().bias_act_fwd_kernel[grid](
            x,
            x if bias is None else bias.contiguous(),
            y,
            rows,
            channels,
            pixels,
            HAS_BIAS=bias is not None,
            **constants,
        )


def bias_act_grad(dy, saved, bias, act, alpha, gain, clamp, bias_grad):
    layout = memory_format(saved)
    dy, saved, dx = dense(dy, layout), dense(saved, layout), empty(dy, layout)
    return dx, _gradient(dy, saved, bias, dx, layout, act, alpha, gain, clamp, bias_grad)


def bias_act_grad_(dy, saved, layout, act, alpha, gain, clamp, bias_grad):
    """bias_act_grad in place of dy, which nothing else refers to. dy and saved are dense in that layout. Returns db."""
    return _gradient(dy, saved, None, dy, layout, act, alpha, gain, clamp, bias_grad)


def _gradient(dy, saved, bias, dx, layout, act, alpha, gain, clamp, bias_grad):
    if not dy.numel():
        return partial_sums(dy, 0, bias_grad).sum(0)
    (rows, channels, pixels), constants = geometry(dy, layout, act, alpha, gain, clamp)
    parts = blocks(rows, constants["BLOCK_K"] * _REPEATS)
    grid = (parts, blocks(channels, constants["BLOCK_C"]))
    partial = partial_sums(dy, parts, bias_grad)
    with on(dy):
        _kernels().bias_act_bwd_kernel[grid](
            dy, saved, saved if bias is None else bias.contiguous(), dx, partial, rows, channels, pixels,
            HAS_BIAS=bias is not None, BIAS_GRAD=bias_grad, REPEATS=_REPEATS, **constants,
        )  # fmt: skip
        return sums(partial)


def partial_sums(x: Tensor, parts: int, wanted: bool) -> Tensor:
    """[parts, C] for the partial sums of a kernel's programs over x [N, C, *]; [0, 0] if they are not wanted."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.empty((parts, x.shape[1]) if wanted else (0, 0), dtype=dtype, device=x.device)


def sums(partial: Tensor) -> Tensor:
    """The sum of the rows of partial, in a fixed order. Launches on the current device."""
    parts, channels = partial.shape
    total = partial.new_empty(channels)
    if channels:
        _kernels().sum_rows_kernel[(blocks(channels, 16),)](
            partial, total, parts, channels, BLOCK_K=64, BLOCK_C=16, **FP_FUSION
        )
    return total


def bias_act_grad_grad(ddx, dy, saved, bias, act, alpha, gain, clamp):
    layout = memory_format(saved)
    ddx, dy, saved = dense(ddx, layout), dense(dy, layout), dense(saved, layout)
    ddy, dsaved = empty(dy, layout), empty(dy, layout)
    if not dy.numel():
        return ddy, dsaved
    (rows, channels, pixels), constants = geometry(dy, layout, act, alpha, gain, clamp)
    grid = (blocks(rows, constants["BLOCK_K"]), blocks(channels, constants["BLOCK_C"]))
    with on(dy):
        _kernels().bias_act_bwd_bwd_kernel[grid](
            ddx, dy, saved, saved if bias is None else bias.contiguous(), ddy, dsaved, rows, channels, pixels,
            HAS_BIAS=bias is not None, **constants,
        )  # fmt: skip
    return ddy, dsaved


FORWARD = Kernel("triton", bias_act, why_not)
GRAD = Kernel("triton", bias_act_grad, why_not)
GRAD_GRAD = Kernel("triton", bias_act_grad_grad, why_not)
