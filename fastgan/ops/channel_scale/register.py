"""channel_scale ↔ channel_dot."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops._memory_format import empty, memory_format
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.channel_scale import cpu, reference, triton


def _save_two(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _scale_formula(ctx, dy):
    x, scale = ctx.saved_tensors
    return (
        channel_scale_op(dy, scale) if needed(ctx, 0) else None,
        channel_dot_op(dy, x) if needed(ctx, 1) else None,
    )


def _fake_scale(x, scale):
    return empty(x, memory_format(x))


channel_scale_op = define_op(
    "channel_scale(Tensor x, Tensor scale) -> Tensor",
    reference=reference.channel_scale,
    fake=_fake_scale,
    gradient=Gradient(_save_two, _scale_formula),
    kernels=(cpu.SCALE, triton.SCALE),
)


def _dot_formula(ctx, d):
    a, b = ctx.saved_tensors
    return (
        channel_scale_op(b, d) if needed(ctx, 0) else None,
        channel_scale_op(a, d) if needed(ctx, 1) else None,
    )


def _fake_dot(a, b):
    return a.new_empty(a.shape[:2], dtype=accumulation_dtype(a.dtype))


channel_dot_op = define_op(
    "channel_dot(Tensor a, Tensor b) -> Tensor",
    reference=reference.channel_dot,
    fake=_fake_dot,
    gradient=Gradient(_save_two, _dot_formula),
    kernels=(cpu.DOT, triton.DOT),
)


# --- the public functions --------------------------------------------------------------------------------------------


def channel_scale(x: Tensor, scale: Tensor) -> Tensor:
    """x · scale with a factor for each sample and channel, with gradients of every order.

    x: [N, C, *] floating, any strides. scale: [N, C] in x's dtype or float32. Returns a dense tensor like x. The
    gradient of the scale is summed in float32 (float64 for double).

    Raises TypeError or ValueError naming the argument. The exact arithmetic: fastgan/ops/channel_scale/reference.py.
    """
    check_image("x", x)
    return channel_scale_op(x, wide("scale", scale, x, [x.shape[:2]]))


def channel_dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a · b over the pixels of each sample and channel, with gradients of every order.

    a, b: [N, C, *] floating, of one shape, dtype and device. Returns [N, C] in float32 (float64 for double).

    Raises TypeError or ValueError naming the argument.
    """
    check_image("a", a)
    check_image("b", b)
    if b.shape != a.shape or b.device != a.device:
        raise bad("b", f"{list(a.shape)} on {a.device}, as a", f"{list(b.shape)} on {b.device}")
    if b.dtype != a.dtype:
        raise bad("b", f"a's dtype {a.dtype}", b.dtype, TypeError)
    return channel_dot_op(a, b)


def check_image(name: str, x: Tensor) -> None:
    """Raises TypeError or ValueError unless x is a floating tensor [N, C, *]."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise bad(name, "a floating tensor", getattr(x, "dtype", type(x)), TypeError)
    if x.dim() < 2:
        raise bad(name, "[N, C, *]", list(x.shape))


def wide(name: str, value: Tensor, x: Tensor, shapes: list[torch.Size]) -> Tensor:
    """The value in x's accumulation dtype. Raises TypeError or ValueError unless it has one of the shapes, x's device,
    and x's dtype or float32."""
    if value.shape not in shapes:
        raise bad(name, f"{' or '.join(str(list(s)) for s in shapes)} for x {list(x.shape)}", list(value.shape))
    if value.device != x.device:
        raise bad(name, f"on x's device {x.device}", value.device)
    if value.dtype != x.dtype and (value.dtype != torch.float32 or x.dtype == torch.float64):
        wider = "" if x.dtype == torch.float64 else " or float32"
        raise bad(name, f"x's dtype {x.dtype}{wider}", value.dtype, TypeError)
    return value.to(accumulation_dtype(x.dtype))
