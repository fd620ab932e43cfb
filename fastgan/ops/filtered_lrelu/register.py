"""filtered_lrelu → filtered_lrelu_linear ↔ itself with up and down exchanged and the filters flipped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops._memory_format import memory_format
from fastgan.ops._zero_gradients import reach_leaves
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.filtered_lrelu import cpu, reference, triton
from fastgan.ops.filtered_lrelu.reference import high_size, low_size
from fastgan.ops.upfirdn2d.register import adjoint_padding, check_factors, check_filter, numbers

_NONE = (0, 0, 0, 0)


def _sized(x: Tensor, size: Sequence[int]) -> Tensor:
    shape = (x.shape[0], x.shape[1], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def adjoint(x, y, first_filter, second_filter, up, down, first_padding, second_padding):
    """The first and the second padding of the adjoint of filtered_lrelu_linear from images like x to images like y."""
    ones, high = (1, 1), high_size(x, first_filter, up, first_padding)
    return (
        adjoint_padding(second_filter, ones, down, second_padding, high, y.shape[2:]),
        adjoint_padding(first_filter, up, ones, first_padding, x.shape[2:], high),
    )


# --- the derivative --------------------------------------------------------------------------------------------------


def _save_linear(ctx, inputs, output):
    x, masks, first, second, up, down, first_padding, second_padding, flip, gain, slope = inputs
    ctx.save_for_backward(masks, first, second)
    pads = adjoint(x, output, first, second, up, down, first_padding, second_padding)
    ctx.options = (list(down), list(up), *pads, not flip, gain, slope)


def _linear_formula(ctx, dy):
    masks, first, second = ctx.saved_tensors
    return filtered_lrelu_linear_op(dy, masks, second, first, *ctx.options), *[None] * 10


def _fake_linear(
    x, masks, first_filter, second_filter, up, down, first_padding, second_padding, flip, gain, slope
):  # fmt: skip
    return _sized(x, low_size(high_size(x, first_filter, up, first_padding), second_filter, down, second_padding))


filtered_lrelu_linear_op = define_op(
    "filtered_lrelu_linear(Tensor x, Tensor masks, Tensor? first_filter, Tensor? second_filter, int[2] up, "
    "int[2] down, SymInt[4] first_padding, SymInt[4] second_padding, bool flip, float gain, float slope) -> Tensor",
    reference=reference.filtered_lrelu_linear,
    fake=_fake_linear,
    gradient=Gradient(_save_linear, _linear_formula),
    kernels=(cpu.LINEAR, triton.LINEAR),
)


# --- forward ---------------------------------------------------------------------------------------------------------


def _save_forward(ctx, inputs, output):
    x, bias, up_filter, down_filter, up, down, padding, gain, slope, _, masks = inputs
    if not masks:
        raise ValueError("filtered_lrelu: masks must be True where a gradient is needed")
    y, bits = output
    ctx.save_for_backward(bits, up_filter, down_filter)
    pads = adjoint(x, y, up_filter, down_filter, up, down, padding, _NONE)
    ctx.options = (list(down), list(up), *pads, True, gain * up[0] * up[1], slope)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.reaches_leaves, ctx.biases = True, [] if bias is None else [bias]


def _forward_formula(ctx, dy, _):
    masks, up_filter, down_filter = ctx.saved_tensors
    bias_grad = ctx.bias_dtype is not None and needed(ctx, 1)
    # The bias gradient of half types is summed before dx is rounded.
    wide = dy.to(accumulation_dtype(dy.dtype)) if bias_grad else dy
    dx = filtered_lrelu_linear_op(wide, masks, down_filter, up_filter, *ctx.options)
    db = dx.sum((0, 2, 3)).to(ctx.bias_dtype) if bias_grad else None
    dx = dx.to(dy.dtype)
    return *reach_leaves(ctx, [dx, db]), *[None] * 9


def _fake(x, bias, up_filter, down_filter, up, down, padding, gain, slope, clamp, masks):
    high = high_size(x, up_filter, up, padding)
    shape = (*x.shape[:2], high[0], (high[1] + 3) // 4) if masks else (0,)
    return _sized(x, low_size(high, down_filter, down)), torch.empty(shape, dtype=torch.uint8, device=x.device)


def _check(
    x: Tensor,
    bias: Tensor | None,
    up_filter: Tensor | None,
    down_filter: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    gain: float,
    slope: float,
    clamp: float | None,
    masks: bool,
) -> None:
    if not x.is_floating_point():
        raise bad("x", "a floating tensor", x.dtype, TypeError)
    if x.dim() != 4:
        raise bad("x", "[N, C, H, W]", list(x.shape))
    if bias is not None:
        if bias.shape != x.shape[1:2]:
            raise bad("bias", f"[{x.shape[1]}], the channels of x {list(x.shape)}", list(bias.shape))
        if bias.device != x.device:
            raise bad("bias", f"on x's device {x.device}", bias.device)
        if bias.dtype != x.dtype and (bias.dtype != torch.float32 or x.dtype == torch.float64):
            wider = "" if x.dtype in (torch.float32, torch.float64) else " or torch.float32"
            raise bad("bias", f"x's dtype {x.dtype}{wider}", bias.dtype, TypeError)
    check_filter("up_filter", up_filter, x)
    check_filter("down_filter", down_filter, x)
    check_factors(up, down)
    for name, value in (("gain", gain), ("slope", slope)):
        if not 0 < value < math.inf:
            raise bad(name, "a finite number > 0", value)
    if clamp is not None and not clamp > 0:
        raise bad("clamp", "None or a number > 0", clamp)
    high = high_size(x, up_filter, up, padding)
    if min(high) < 1 or min(low_size(high, down_filter, down)) < 1:
        raise bad("padding", "enough for one pixel after both filters", list(padding))


filtered_lrelu_op = define_op(
    "filtered_lrelu(Tensor x, Tensor? bias, Tensor? up_filter, Tensor? down_filter, int[2] up, int[2] down, "
    "SymInt[4] padding, float gain, float slope, float? clamp, bool masks) -> (Tensor, Tensor)",
    reference=reference.filtered_lrelu,
    fake=_fake,
    gradient=Gradient(_save_forward, _forward_formula),
    kernels=(cpu.FORWARD, triton.FORWARD),
    check=_check,
)


def filtered_lrelu(
    x: Tensor,
    bias: Tensor | None,
    up_filter: Tensor | None,
    down_filter: Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
) -> Tensor:
    """Bias, upsampling, leaky ReLU · gain with clamp, and downsampling, with gradients of every order.

    x: [N, C, H, W] floating, any strides. bias: [C] in x's dtype or float32, or None. up_filter, down_filter: [taps]
    (the outer product with itself) or [kh, kw], constants without gradient, or None (identity). up, down: factors
    >= 1, one or (y, x). padding: pixels of the upsampled image, one number, (y, x) or (top, bottom, left, right);
    negative numbers crop. The upsampling has the gain up_y · up_x. Backward keeps two bits per upsampled sample.

    Returns [N, C, OH, OW] in x's dtype, with OH = (H·up + top + bottom − kh_up + 1 − kh_down) // down + 1, dense:
    channels_last where x is, else contiguous. Sums are float32 (float64 for double) and rounded once; on a GPU filters
    and intermediate results have the 11 bits of TF32 where x is float16 or bfloat16, and a NaN or an infinity reaches
    up to 64 pixels beyond the filters.

    Raises TypeError or ValueError naming the argument. The exact arithmetic: fastgan/ops/filtered_lrelu/reference.py.
    """
    if not isinstance(x, Tensor):
        raise bad("x", "a floating tensor", type(x), TypeError)
    for name, filter in (("up_filter", up_filter), ("down_filter", down_filter)):
        if filter is not None and filter.requires_grad:
            raise bad(name, "a constant: there is no gradient of the filter", "a tensor that requires a gradient")
    pads = numbers("padding", padding, (2, 4))
    if len(pads) == 2:
        pads = [pads[0], pads[0], pads[1], pads[1]]
    masks = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    factors = numbers("up", up, (2,)), numbers("down", down, (2,))
    return filtered_lrelu_op(x, bias, up_filter, down_filter, *factors, pads, gain, slope, clamp, masks)[0]
