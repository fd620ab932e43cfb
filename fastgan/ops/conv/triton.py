"""Convolutions on a GPU: our Triton kernels or PyTorch's convolution, whichever was measured to be faster.

Our kernels take one group and activations in channels_last. Everything else is PyTorch's convolution followed by the
Triton kernels of bias_act, in place. FASTGAN_BACKEND=triton forces our kernels, and converts contiguous tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.ops import _autotune, _backend
from fastgan.ops._launch import FP_FUSION, blocks, on, power_of_two
from fastgan.ops._library import Kernel
from fastgan.ops._memory_format import dense, memory_format
from fastgan.ops.bias_act import triton as epilogue
from fastgan.ops.conv import reference, reference_stack


class Config(NamedTuple):
    """The tile sizes and launch options of a kernel. Any config is correct for any shape."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"{self.block_m}x{self.block_n}x{self.block_k}w{self.warps}s{self.stages}"


#: For 16-bit numbers; block_k of wider ones is as many bytes. The tiles of all stages fit into 99 KB of shared memory
#: and the accumulators into registers: doubles get a quarter of the largest tile.
CONFIGS = (
    Config(128, 128, 64, 8, 3),
    Config(128, 64, 64, 8, 3),
    Config(64, 64, 64, 4, 4),
    Config(128, 32, 64, 4, 4),
    Config(64, 32, 64, 4, 4),
    Config(128, 16, 64, 4, 4),
    Config(32, 16, 64, 2, 5),
)
_INTERPRETED = Config(
    1024, 64, 64, 1, 1
)  # few large programs: the interpreter takes a millisecond for each, whatever its size
_FLATTENED = 16  # fewer channels than this share an index with the taps: tl.dot takes at least 16
_BUSY = 132  # the number of programs that occupies a large GPU


def configs(rows: int, outputs: int, dtype: torch.dtype) -> tuple[Config, ...]:
    """The candidates for a product of that many rows and columns, probably best first. A pure function."""
    width = min(128, max(16, power_of_two(outputs)))
    accumulators = 128 * 128 if dtype != torch.float64 else 64 * 64
    fit = [c for c in CONFIGS if width // 2 <= c.block_n <= width and c.block_m * c.block_n <= accumulators]
    busy = [c for c in fit if blocks(rows, c.block_m) * blocks(outputs, c.block_n) >= _BUSY]
    first = busy[0] if busy else fit[-1]
    ordered = [first, *(c for c in fit if c is not first)]
    return tuple(c._replace(block_k=max(16, c.block_k * 2 // dtype.itemsize)) for c in ordered)


# --- support ---------------------------------------------------------------------------------------------------------


def _forced() -> bool:
    return _backend.forced == "triton"


def _why_not_triton(x: Tensor, weight: Tensor, groups: int) -> str | None:
    """Why our kernels do not run, or None. x: the input activation."""
    if groups != 1:
        return f"the Triton convolutions take one group, not {groups}"
    if x.is_cuda and not _forced() and reference.activation_layout(x, weight) is not torch.channels_last:
        return "the Triton convolutions read channels_last, and the tensors are contiguous"
    if max(math.prod(x.shape[1:]), weight.numel()) >= 2**31:
        return "an image or the weight has 2^31 elements or more"
    return None


def _plain(groups_at: int) -> Callable[..., str | None]:
    """why_not of an op without epilogue."""

    def why_not(x: Tensor, *rest: Any) -> str | None:
        return epilogue.why_not(x) or _why_not_triton(x, rest[0], rest[groups_at - 1])

    return why_not


def _fused(groups_at: int) -> Callable[..., str | None]:
    """why_not of an op with an epilogue, which can follow PyTorch's convolution too."""
    plain = _plain(groups_at)

    def why_not(x: Tensor, *rest: Any) -> str | None:
        return plain(x, *rest) if _forced() else epilogue.why_not(x)

    return why_not


def _why_not_stack(groups_at: int) -> Callable[..., str | None]:
    """why_not of an op on a stack, whose first tensor is an activation and whose second argument are the weights."""

    def why_not(x: Tensor, weights: list[Tensor], *rest: Any) -> str | None:
        reason = epilogue.why_not(x)
        if reason or not _forced():
            return reason
        groups = rest[groups_at - 1]
        return next((r for w, g in zip(weights, groups, strict=True) if (r := _why_not_triton(x, w, g))), None)

    return why_not


def _run_fastest(name: str, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...], rows: int, outputs: int,
            groups: int, library: Callable[[], Any], ours: Callable[[Config], Any]) -> Any:  # fmt: skip
    """The result of PyTorch's convolution or of our kernel with one of its configs, whichever is faster.

    tensors, options: what the selection depends on. rows, outputs: the sizes of the matrix product.
    """
    x, weight, *_ = tensors
    assert x is not None
    assert weight is not None
    if rows >= 2**30 or _why_not_triton(x, weight, groups) is not None:  # our kernels count rows in 32 bits
        return library()
    candidates = configs(rows, outputs, x.dtype)
    if not x.is_cuda:
        return ours(_INTERPRETED)
    if _forced():
        return ours(candidates[0])
    runs: dict[str, Callable[[], Any]] = {_autotune.LIBRARY: library}
    runs |= {f"triton/{c}": functools.partial(ours, c) for c in candidates}
    return _autotune.fastest(x.device, _autotune.selection_key(name, tensors, (*options, _precision(x))), runs)


# --- launchers -------------------------------------------------------------------------------------------------------


def _kernels():
    from fastgan.ops.conv import triton_kernels

    return triton_kernels


def _precision(x: Tensor) -> str:
    return "tf32" if x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"


def _constants(x, weight, summed: int, taps: int, stride, padding, dilation, config: Config) -> dict[str, Any]:
    """Constants of both kernels. summed, taps: the channels and the taps of an output pixel that are summed over."""
    few = summed if 0 < summed < _FLATTENED else 0
    depth = summed * taps if few else summed
    return {
        "R": weight.shape[2],
        "S": weight.shape[3],
        "STRIDE_H": stride[0],
        "STRIDE_W": stride[1],
        "PADDING_H": padding[0],
        "PADDING_W": padding[1],
        "DILATION_H": dilation[0],
        "DILATION_W": dilation[1],
        "FEW": few,
        # Triton's interpreter multiplies bfloat16 wrongly: by its bits.
        "WIDEN": x.dtype == torch.bfloat16 and not x.is_cuda,
        "PRECISION": _precision(x),
        "DOUBLE": x.dtype == torch.float64,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": min(config.block_k, max(16, power_of_two(depth))),
        "num_warps": config.warps,
        "num_stages": config.stages,
        **FP_FUSION,
    }


def _result(x: Tensor, shape: tuple[int, ...], layout: torch.memory_format) -> Tensor:
    """An uninitialized tensor of that shape in channels_last; in `layout` if both layouts are the same memory."""
    narrow = shape[1] == 1 or shape[2:] == (1, 1)  # then only the strides differ
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout if narrow else torch.channels_last)


def forward(x, weight, bias, stride, padding, dilation, act, alpha, gain, clamp, config):
    """conv_bias_act of one group, by our kernel."""
    layout = reference.activation_layout(x, weight)
    shape = _forward_shape(x, weight, stride, padding, dilation)
    y = _result(x, shape, layout)
    images, outputs, out_height, out_width = shape
    rows = images * out_height * out_width
    if y.numel():
        x, weight = (dense(t, torch.channels_last) for t in (x, weight))
        taps = math.prod(weight.shape[2:])
        constants = _constants(x, weight, x.shape[1], taps, stride, padding, dilation, config)
        activation = epilogue.act_constants(act, alpha, gain, clamp)
        del activation["INVERSE_GAIN"]
        with on(x):
            _kernels().conv_fwd_kernel[(blocks(rows, config.block_m) * blocks(outputs, config.block_n),)](
                x, weight, x if bias is None else bias.contiguous(), y,
                rows, x.shape[2], x.shape[3], x.shape[1], out_height, out_width, outputs,
                HAS_BIAS=bias is not None, **activation, **constants,
            )  # fmt: skip
    return dense(y, layout)


def _forward_shape(x, weight, stride, padding, dilation):
    sizes = (
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    return (x.shape[0], weight.shape[0], *sizes)


def backward(dy, weight, size, stride, padding, dilation, config, saved=None, act=None, bias_grad=False):
    """conv_dgrad of one group by our kernel; with saved (of the size of dx) and act (act, alpha, gain, clamp), the dx
    of conv_dgrad_act. And its db, empty unless bias_grad."""
    layout = reference.activation_layout(dy, weight)
    dx = _result(dy, (dy.shape[0], weight.shape[1], *size), layout)
    rows, phases = _phases(dy, size, stride)
    tiles = blocks(rows, config.block_m) * phases
    partial = epilogue.partial_sums(dx, tiles if dx.numel() else 0, bias_grad)
    if not dx.numel():
        return dense(dx, layout), partial.sum(0)
    dy, weight = (dense(t, torch.channels_last) for t in (dy, weight))
    gcds = [math.gcd(stride[i], dilation[i]) for i in (0, 1)]
    steps = [stride[i] // gcds[i] for i in (0, 1)]  # the distance of taps that reach the same pixel
    taps = math.prod(blocks(weight.shape[2 + i], steps[i]) for i in (0, 1))
    constants = {
        **_constants(dy, weight, dy.shape[1], taps, stride, padding, dilation, config),
        **epilogue.act_constants(*(act or ("linear", 0.0, 1.0, None))),
        "STEP_R": steps[0],
        "STEP_S": steps[1],
        "MOVE_H": -dilation[0] // gcds[0],
        "MOVE_W": -dilation[1] // gcds[1],
    }
    with on(dy):
        _kernels().conv_bwd_kernel[(tiles * blocks(dx.shape[1], config.block_n),)](
            dy, weight, dy if saved is None else dense(saved, torch.channels_last), dx, partial,
            rows, dy.shape[2], dy.shape[3], dy.shape[1], *size, dx.shape[1],
            HAS_ACT=saved is not None, BIAS_GRAD=bias_grad, **constants,
        )  # fmt: skip
        return dense(dx, layout), epilogue.sums(partial)


def _phases(dy, size, stride):
    """The pixels of the largest phase of dx over all images, and the number of phases."""
    return dy.shape[0] * blocks(size[0], stride[0]) * blocks(size[1], stride[1]), stride[0] * stride[1]


# --- the back-ends ---------------------------------------------------------------------------------------------------


def conv_bias_act(x, weight, bias, stride, padding, dilation, groups, act, alpha, gain, clamp):
    def library():
        y = reference.conv(x, weight, stride, padding, dilation, groups)
        epilogue.bias_act_(y, bias, act, alpha, gain, clamp)
        return y

    images, outputs, *size = _forward_shape(x, weight, stride, padding, dilation)
    return _run_fastest(
        "conv_bias_act", (x, weight, bias), (stride, padding, dilation, act, alpha, gain, clamp),
        images * math.prod(size), outputs, groups, library,
        lambda config: forward(x, weight, bias, stride, padding, dilation, act, alpha, gain, clamp, config),
    )  # fmt: skip


def conv_stack(x, *rest):
    return reference_stack.each_block(conv_bias_act, x, *rest)


def conv(x, weight, stride, padding, dilation, groups):
    images, outputs, *size = _forward_shape(x, weight, stride, padding, dilation)
    return _run_fastest(
        "conv", (x, weight), (stride, padding, dilation), images * math.prod(size), outputs, groups,
        lambda: reference.conv(x, weight, stride, padding, dilation, groups),
        lambda config: forward(x, weight, None, stride, padding, dilation, "linear", 0.0, 1.0, None, config),
    )  # fmt: skip


def conv_dgrad(dy, weight, size, stride, padding, dilation, groups):
    rows, phases = _phases(dy, size, stride)
    return _run_fastest(
        "conv_dgrad", (dy, weight), (size, stride, padding, dilation), rows * phases, weight.shape[1], groups,
        lambda: reference.conv_dgrad(dy, weight, size, stride, padding, dilation, groups),
        lambda config: backward(dy, weight, size, stride, padding, dilation, config)[0],
    )  # fmt: skip


def conv_dgrad_act(dy, weight, saved, stride, padding, dilation, groups, act, alpha, gain, clamp, bias_grad):
    size = list(saved.shape[2:])

    def library():
        dx = reference.conv_dgrad(dy, weight, size, stride, padding, dilation, groups)
        layout = reference.activation_layout(dy, weight)
        return dx, epilogue.bias_act_grad_(dx, dense(saved, layout), layout, act, alpha, gain, clamp, bias_grad)

    def ours(config):
        return backward(
            dy, weight, size, stride, padding, dilation, config, saved, (act, alpha, gain, clamp), bias_grad
        )

    rows, phases = _phases(dy, size, stride)
    return _run_fastest(
        "conv_dgrad_act", (dy, weight, saved), (stride, padding, dilation, act, alpha, gain, clamp, bias_grad),
        rows * phases, weight.shape[1], groups, library, ours,
    )  # fmt: skip


def conv_slope(x, weight, saved, stride, padding, dilation, groups, act, alpha, gain, clamp):
    z = conv(x, weight, stride, padding, dilation, groups)
    layout = memory_format(saved)
    z = dense(z, layout)
    epilogue.bias_act_grad_(z, dense(saved, layout), layout, act, alpha, gain, clamp, False)
    return z


def conv_stack_dgrad(dy, *rest):
    return reference_stack.each_dgrad(epilogue.bias_act_grad, conv_dgrad_act, conv_dgrad, dy, *rest)


def conv_stack_tangent(x, *rest):
    return reference_stack.each_tangent(conv_slope, x, *rest)


def conv_stack_backward(dy, x, weights, outputs, *rest):
    return reference_stack.both_passes(
        conv_stack_dgrad, reference_stack.conv_stack_wgrad, dy, x, weights, outputs, *rest
    )


CONV = Kernel("triton", conv, _plain(groups_at=5))
CONV_DGRAD = Kernel("triton", conv_dgrad, _plain(groups_at=6))
CONV_BIAS_ACT = Kernel("triton", conv_bias_act, _fused(groups_at=6))
CONV_STACK = Kernel("triton", conv_stack, _why_not_stack(groups_at=5))
CONV_STACK_DGRAD = Kernel("triton", conv_stack_dgrad, _why_not_stack(groups_at=6))
CONV_STACK_TANGENT = Kernel("triton", conv_stack_tangent, _why_not_stack(groups_at=5))
CONV_STACK_BACKWARD = Kernel("triton", conv_stack_backward, lambda dy, x, *rest: _why_not_stack(groups_at=5)(dy, *rest))
CONV_STACK_WGRAD = Kernel("triton", reference_stack.conv_stack_wgrad, lambda dys, *_: epilogue.why_not(dys[0]))
