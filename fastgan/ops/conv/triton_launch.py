"""Launches the Triton convolutions with a given config: forward, input gradient and weight gradient of one group."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastgan.ops._launch import FP_FUSION, blocks, launch, on, power_of_two
from fastgan.ops._memory_format import dense, memory_format
from fastgan.ops.bias_act import triton as bias_act
from fastgan.ops.conv import reference
from fastgan.ops.conv.triton_configs import FLATTENED, Config, padded_channels

_LINEAR = ("linear", 0.0, 1.0, None)
_FINISH_TILE = 2048  # elements that a program of conv_finish_kernel computes


def _kernels():
    from fastgan.ops.conv import triton_kernels

    return triton_kernels


def _epilogue_kernels():
    from fastgan.ops.conv import triton_epilogue_kernels

    return triton_epilogue_kernels


def _wgrad_kernels():
    from fastgan.ops.conv import triton_wgrad_kernels

    return triton_wgrad_kernels


def precision(x: Tensor) -> str:
    """ "tf32" where PyTorch's settings round the factors of float32 convolutions, else "ieee".

    Not from cudnn.allow_tf32, which raises once a program has used the newer switches, fp32_precision.
    """
    if x.dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"  # type: ignore[attr-defined]


def constants(
    x: Tensor, kernel: Any, few: int, depth: int, stride: Any, padding: Any, dilation: Any, config: Config
) -> dict[str, Any]:
    """Constants that all kernels have. few: 0, or the channels of a pixel of x, which then share an index with the
    taps. depth: the terms that an iteration can take."""
    return {
        "R": kernel[0],
        "S": kernel[1],
        "STRIDE_H": stride[0],
        "STRIDE_W": stride[1],
        "PADDING_H": padding[0],
        "PADDING_W": padding[1],
        "DILATION_H": dilation[0],
        "DILATION_W": dilation[1],
        "FEW": few,
        # Triton's interpreter multiplies bfloat16 wrongly: by its bits.
        "WIDEN": x.dtype == torch.bfloat16 and not x.is_cuda,
        "PRECISION": precision(x),
        "DOUBLE": x.dtype == torch.float64,
        "SPLITS": config.splits,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": min(config.block_k, max(16, power_of_two(depth))),
        "num_warps": config.warps,
        "num_stages": config.stages,
        **FP_FUSION,
    }


def _padded(x: Tensor) -> Tensor:
    """x [N, C, H, W] in channels_last as [N, H, W, padded channels], the new ones zero."""
    images, channels, height, width = x.shape
    pixels, wanted = images * height * width, padded_channels(channels)
    result = torch.empty((images, height, width, wanted), dtype=x.dtype, device=x.device)
    block = 256
    launch(_epilogue_kernels().pad_channels_kernel, (blocks(pixels, block),))(
        x, result, pixels, channels, PADDED=wanted, BLOCK=block, **FP_FUSION
    )
    return result


def _few(x: Tensor, channels: int, config: Config) -> tuple[Tensor, int]:
    """x and FEW for a sum over the channels of x, the tensor padded if the config says so. On the current device."""
    if not 0 < channels < FLATTENED:
        return x, 0
    padded = padded_channels(channels)
    return (_padded(x), padded) if config.pad and padded != channels else (x, channels)


def _result(x: Tensor, shape: tuple[int, ...], layout: torch.memory_format) -> Tensor:
    """An uninitialized tensor of that shape in channels_last; in `layout` if both layouts are the same memory."""
    narrow = shape[1] == 1 or shape[2:] == (1, 1)  # then only the strides differ
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout if narrow else torch.channels_last)


def _workspace(result: Tensor, splits: int) -> Tensor:
    """Where the products are stored: the result itself, or partial sums [splits, result]."""
    if splits == 1:
        return result
    wide = torch.float64 if result.dtype == torch.float64 else torch.float32
    return torch.empty(splits * result.numel(), dtype=wide, device=result.device)


def finish_tile(channels: int) -> tuple[int, int]:
    """(rows, channels) of a program of conv_finish_kernel."""
    width = min(128, power_of_two(channels))
    return _FINISH_TILE // width, width


def _finish(workspace, bias, saved, result, splits: int, what: dict[str, Any], bias_grad: bool) -> Tensor:
    """Store the epilogue of the sum of the partial sums in result. Returns the partial bias gradients."""
    channels = result.shape[1]
    rows = result.numel() // channels
    block_m, block_n = finish_tile(channels)
    partial = bias_act.partial_sums(result, blocks(rows, block_m), bias_grad)
    launch(_epilogue_kernels().conv_finish_kernel, (blocks(rows, block_m) * blocks(channels, block_n),))(
        workspace, bias, saved, result, partial, rows, channels, BIAS_GRAD=bias_grad, **what,
        DOUBLE=result.dtype == torch.float64, SPLITS=splits, BLOCK_M=block_m, BLOCK_N=block_n, **FP_FUSION,
    )  # fmt: skip
    return partial


def forward(x, weight, bias, stride, padding, dilation, act, alpha, gain, clamp, config, saved=None):
    """conv_bias_act of one group. With saved [N, K, P, Q]: conv(x, weight) times the slope there, in the layout of
    saved."""
    layout = reference.activation_layout(x, weight) if saved is None else memory_format(saved)
    shape = forward_shape(x, weight, stride, padding, dilation)
    y = _result(x, shape, layout)
    images, outputs, out_height, out_width = shape
    rows = images * out_height * out_width
    if not y.numel():
        return dense(y, layout)
    height, width, channels = x.shape[2], x.shape[3], x.shape[1]
    x, weight = (dense(t, torch.channels_last) for t in (x, weight))
    saved = x if saved is None else dense(saved, torch.channels_last)
    what = {
        "HAS_BIAS": bias is not None,
        "HAS_ACT": saved is x,
        "HAS_SLOPE": saved is not x,
        **bias_act.act_constants(act, alpha, gain, clamp),
    }
    bias = x if bias is None else bias.contiguous()
    with on(x):
        source, few = _few(x, channels, config)
        taps = math.prod(weight.shape[2:])
        options = constants(x, weight.shape[2:], few, few * taps or channels, stride, padding, dilation, config)
        target = _workspace(y, config.splits)
        tiles = blocks(rows, config.block_m) * blocks(outputs, config.block_n)
        launch(_kernels().conv_fwd_kernel, (tiles * config.splits,))(
            source, weight, bias, saved, target, rows, height, width, channels, out_height, out_width, outputs,
            **what, **options,
        )  # fmt: skip
        if config.splits > 1:
            _finish(target, bias, saved, y, config.splits, what, False)
    return dense(y, layout)


def forward_shape(x, weight, stride, padding, dilation):
    """[N, K, P, Q] of the convolution."""
    sizes = (
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    return (x.shape[0], weight.shape[0], *sizes)


def backward(dy, weight, size, stride, padding, dilation, config, saved=None, act=None, bias_grad=False):
    """conv_dgrad of one group; with saved (of the size of dx) and act (act, alpha, gain, clamp), the dx of
    conv_dgrad_act. And its db, empty unless bias_grad."""
    layout = reference.activation_layout(dy, weight)
    dx = _result(dy, (dy.shape[0], weight.shape[1], *size), layout)
    rows, phases = pixels_of_phases(dy, size, stride)
    tiles = blocks(rows, config.block_m) * phases
    if not dx.numel():
        return dense(dx, layout), bias_act.partial_sums(dx, 0, bias_grad).sum(0)
    outputs, channels, out_height, out_width = dy.shape[1], weight.shape[1], dy.shape[2], dy.shape[3]
    kernel = weight.shape[2:]
    dy = dense(dy, torch.channels_last)
    saved = dy if saved is None else dense(saved, torch.channels_last)
    # Hopper's tensor cores read TF32 from shared memory only where the summed index is the fast one.
    packed = precision(dy) == "tf32"
    weight = weight.permute(1, 2, 3, 0).contiguous() if packed else dense(weight, torch.channels_last)
    what = {"HAS_SLOPE": saved is not dy, **bias_act.act_constants(*(act or _LINEAR))}
    with on(dy):
        source, few = _few(dy, outputs, config)
        steps, moves = steps_of_taps(stride, dilation)
        taps = math.prod(blocks(kernel[i], steps[i]) for i in (0, 1))
        options = constants(dy, kernel, few, few * taps or outputs, stride, padding, dilation, config)
        target = _workspace(dx, config.splits)
        sums = bias_grad and config.splits == 1
        partial = bias_act.partial_sums(dx, tiles, sums)
        launch(_kernels().conv_bwd_kernel, (tiles * blocks(channels, config.block_n) * config.splits,))(
            source, weight, saved, target, partial, rows, out_height, out_width, outputs, *size, channels, dy.shape[0],
            STEP_R=steps[0], STEP_S=steps[1], MOVE_H=moves[0], MOVE_W=moves[1],
            BIAS_GRAD=sums, PACKED=packed, **what, **options,
        )  # fmt: skip
        if config.splits > 1:
            what |= {"HAS_BIAS": False, "HAS_ACT": False}
            partial = _finish(target, dx, saved, dx, config.splits, what, bias_grad)
        return dense(dx, layout), bias_act.sums(partial)


def pixels_of_phases(dy, size, stride):
    """The pixels of the largest phase of dx over all images, and the number of phases."""
    return dy.shape[0] * blocks(size[0], stride[0]) * blocks(size[1], stride[1]), stride[0] * stride[1]


def steps_of_taps(stride, dilation) -> tuple[list[int], list[int]]:
    """How far apart the taps are that reach the same pixel of dx, and the pixels of dy that they read."""
    gcds = [math.gcd(stride[i], dilation[i]) for i in (0, 1)]
    return [stride[i] // gcds[i] for i in (0, 1)], [-dilation[i] // gcds[i] for i in (0, 1)]


def wgrad(dy, x, kernel, stride, padding, dilation, channels_last, config):
    """conv_wgrad of one group."""
    outputs, channels, (out_height, out_width) = dy.shape[1], x.shape[1], dy.shape[2:]
    layout = reference.weight_layout(channels_last)
    dw = _result(dy, (outputs, channels, *kernel), layout)
    rows = dy.shape[0] * out_height * out_width
    if not dw.numel() or not rows:
        return dense(dw.zero_(), layout)
    height, width = x.shape[2:]
    dy, x = dense(dy, torch.channels_last), dense(x, torch.channels_last)
    with on(dy):
        source, few = _few(x, channels, config) if config.pad else (x, 0)
        options = constants(dy, kernel, few, rows, stride, padding, dilation, config)
        block = options["BLOCK_K"]
        steps = (block // (out_height * out_width), block // out_width % out_height, block % out_width)
        target = _workspace(dw, config.splits)
        tiles = blocks(outputs, config.block_m) * wgrad_columns(channels, few, kernel, config.block_n)
        launch(_wgrad_kernels().conv_wgrad_kernel, (tiles * config.splits,))(
            dy, source, target, rows, height, width, channels, out_height, out_width, outputs, *steps, **options
        )
        if config.splits > 1:
            bias_act.add_rows(target.view(config.splits, -1), dw)
    return dense(dw, layout)


def wgrad_columns(channels: int, few: int, kernel: Any, block_n: int) -> int:
    """How many tiles the columns of a weight gradient take. A tile covers one tap, or several of few channels."""
    taps = math.prod(kernel)
    return blocks(taps * few, block_n) if few else taps * blocks(channels, block_n)
