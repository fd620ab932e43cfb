"""bias_act in Triton: launches the kernels of triton_kernels.py, which is imported at the first launch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._launch import FP_FUSION, blocks, launch, on, power_of_two, why_no_triton
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import dense, empty, memory_format, view_ncs
from fastgan.ops.bias_act.activations import ACTIVATIONS

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TILE = 2048  # elements that a program loads at a time
_REPEATS = 8  # tiles that a program of the gradient processes at most, so that there are few partial sums
_MOST_ROWS = 2**31 - _TILE * _REPEATS  # rows are counted in 32 bits


def why_not(x: Tensor, *_) -> str | None:
    if x.numel() >= _MOST_ROWS and matrix(x, memory_format(x))[0] >= _MOST_ROWS:
        return f"the Triton kernels take a matrix of less than {_MOST_ROWS:,} rows"
    return why_no_triton(x, _FLOATS)


def _kernels():
    from fastgan.ops.bias_act import triton_kernels

    return triton_kernels


def matrix(x: Tensor, layout: torch.memory_format) -> tuple[int, int, bool]:
    """(rows, columns) of a dense tensor [N, C, *] as a matrix, and whether a column is a channel (else a pixel)."""
    images, channels, pixels = view_ncs(x)
    if layout is torch.channels_last or pixels == 1:
        return images * pixels, channels, True
    return images * channels, pixels, False


def tile(outer: int, inner: int, channel_is_fast: bool) -> tuple[int, int]:
    """(rows, columns) of a program's tile of a matrix: a pure function of its size, so that results are reproducible.

    Columns of channels take a value of the bias each, so that tiles are high; rows of pixels share one.
    """
    width = min(128 if channel_is_fast else 512, power_of_two(inner))
    return min(_TILE // width, power_of_two(outer)), width


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
    """(outer, inner, channels) for a kernel, and its constants."""
    outer, inner, fast = matrix(x, layout)
    block_o, block_i = tile(outer, inner, fast)
    constants = {
        **act_constants(act, alpha, gain, clamp),
        "CHANNEL_IS_FAST": fast,
        "DOUBLE": x.dtype == torch.float64,
        "BLOCK_O": block_o,
        "BLOCK_I": block_i,
        **FP_FUSION,
    }
    return (outer, inner, x.shape[1]), constants


def grid(sizes: tuple[int, int, int], constants: dict) -> tuple[int]:
    """The number of programs, a tile each."""
    outer, inner, _ = sizes
    return (blocks(outer, constants["BLOCK_O"]) * blocks(inner, constants["BLOCK_I"]),)


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
    sizes, constants = geometry(x, layout, act, alpha, gain, clamp)
    with on(x):
        launch(_kernels().bias_act_fwd_kernel, grid(sizes, constants))(
            x, x if bias is None else bias.contiguous(), y, *sizes, HAS_BIAS=bias is not None, **constants
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
    sizes, constants = geometry(dy, layout, act, alpha, gain, clamp)
    programs, parts, repeats = gradient_grid(sizes, constants)
    partial = partial_sums(dy, parts, bias_grad)
    with on(dy):
        launch(_kernels().bias_act_bwd_kernel, (programs,))(
            dy, saved, saved if bias is None else bias.contiguous(), dx, partial, *sizes,
            HAS_BIAS=bias is not None, BIAS_GRAD=bias_grad, REPEATS=repeats, **constants,
        )  # fmt: skip
        return sums(partial)


def gradient_grid(sizes: tuple[int, int, int], constants: dict) -> tuple[int, int, int]:
    """Of the gradient's kernel: the number of programs, of rows of partial sums, and of tiles of a program."""
    outer, inner, channels = sizes
    rows, columns = blocks(outer, constants["BLOCK_O"]), blocks(inner, constants["BLOCK_I"])
    if constants["CHANNEL_IS_FAST"]:
        parts = blocks(rows, _REPEATS)
        return parts * columns, parts, _REPEATS
    repeats = min(_REPEATS, columns)
    chunks = blocks(columns, repeats)
    return rows * chunks, outer // channels * chunks, repeats


def partial_sums(x: Tensor, parts: int, wanted: bool) -> Tensor:
    """[parts, C] for the partial sums of a kernel's programs over x [N, C, *]; [0, 0] if they are not wanted."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.empty((parts, x.shape[1]) if wanted else (0, 0), dtype=dtype, device=x.device)


def sums(partial: Tensor) -> Tensor:
    """The sum of the rows of partial, in a fixed order. Launches on the current device."""
    total = partial.new_empty(partial.shape[1])
    if total.numel():
        add_rows(partial, total)
    return total


def add_rows(partial: Tensor, total: Tensor) -> None:
    """Store the sums of the rows of partial [rows, columns], or of each of [groups, rows, columns], in total, dense, of
    any dtype: in a fixed order."""
    rows, columns = partial.shape[-2:]
    block_k = min(64, power_of_two(rows))
    block_c = 1024 // block_k
    groups = partial.shape[0] if partial.dim() == 3 else 1
    launch(_kernels().sum_rows_kernel, (groups * blocks(columns, block_c),))(
        partial, total, rows, columns, BLOCK_K=block_k, BLOCK_C=block_c, **FP_FUSION
    )


def bias_act_grad_grad(ddx, dy, saved, bias, act, alpha, gain, clamp):
    layout = memory_format(saved)
    ddx, dy, saved = dense(ddx, layout), dense(dy, layout), dense(saved, layout)
    ddy, dsaved = empty(dy, layout), empty(dy, layout)
    if not dy.numel():
        return ddy, dsaved
    sizes, constants = geometry(dy, layout, act, alpha, gain, clamp)
    with on(dy):
        launch(_kernels().bias_act_bwd_bwd_kernel, grid(sizes, constants))(
            ddx, dy, saved, saved if bias is None else bias.contiguous(), ddy, dsaved, *sizes,
            HAS_BIAS=bias is not None, **constants,
        )  # fmt: skip
    return ddy, dsaved


FORWARD = Kernel("triton", bias_act, why_not)
GRAD = Kernel("triton", bias_act_grad, why_not)
GRAD_GRAD = Kernel("triton", bias_act_grad_grad, why_not)
