"""The convolution family: conv, conv_dgrad and conv_wgrad, each differentiated by the other two.

conv_backward and conv_dgrad_backward are both gradients of conv and of conv_dgrad in one op, for backward passes that
nothing differentiates: on a CPU they call PyTorch's operation for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.ops import _backend
from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops.conv import cpu, reference, triton
from fastgan.ops.conv.reference import in_channels_last
from fastgan.ops.conv.shapes import fake_backward, fake_conv, fake_dgrad, fake_dgrad_backward, fake_wgrad

OPTIONS = "int[2] stride, int[2] padding, int[2] dilation, int groups"


def _save(ctx, inputs, output):
    left, right, *rest = inputs
    ctx.save_for_backward(left, right)
    ctx.rest = rest


# --- y = x ∗ w -------------------------------------------------------------------------------------------------------


def _conv_formula(ctx, dy):
    x, weight = ctx.saved_tensors
    dx, dw = conv_gradients(dy, x, weight, ctx.rest, needed(ctx, 0), needed(ctx, 1))
    return dx, dw, None, None, None, None


def conv_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, options: Sequence[Any], x_needed: bool, weight_needed: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dx and dw of a convolution, by one op if nothing differentiates them."""
    if x_needed and weight_needed and _in_one_call(dy):
        return conv_backward_op(dy, x, weight, *options)
    dx = conv_dgrad_op(dy, weight, x.shape[2:], *options) if x_needed else None
    return dx, wgrad(dy, x, weight, options) if weight_needed else None


def _in_one_call(tensor: Tensor) -> bool:
    """Whether both gradients come from PyTorch's operation for both: nothing differentiates them, on a CPU, where no
    back-end without that operation is forced."""
    return tensor.is_cpu and not torch.is_grad_enabled() and _backend.forced in ("", "cpp", "reference")


def wgrad(dy: Tensor, x: Tensor, weight: Tensor, options: Sequence[Any]) -> Tensor:
    return conv_wgrad_op(dy, x, weight.shape[2:], *options, in_channels_last(weight, weight))


def check_conv(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> None:
    """Raises TypeError or ValueError naming the argument."""
    check_operands(x, weight, groups)
    check_input(x.shape, weight, padding, dilation, groups)


conv_op = define_op(
    f"conv(Tensor x, Tensor weight, {OPTIONS}) -> Tensor",
    reference=reference.conv,
    fake=fake_conv,
    gradient=Gradient(_save, _conv_formula),
    kernels=(cpu.CONV, triton.CONV),
    check=check_conv,
)


# --- dx, the input gradient ------------------------------------------------------------------------------------------


def _dgrad_formula(ctx, ddx):
    dy, weight = ctx.saved_tensors
    _, *options = ctx.rest
    if needed(ctx, 0) and needed(ctx, 1) and _in_one_call(ddx):
        return *conv_dgrad_backward_op(ddx, dy, weight, *options), None, None, None, None, None
    ddy = conv_op(ddx, weight, *options) if needed(ctx, 0) else None
    dw = wgrad(dy, ddx, weight, options) if needed(ctx, 1) else None
    return ddy, dw, None, None, None, None, None


conv_dgrad_op = define_op(
    f"conv_dgrad(Tensor dy, Tensor weight, SymInt[2] size, {OPTIONS}) -> Tensor",
    reference=reference.conv_dgrad,
    fake=fake_dgrad,
    gradient=Gradient(_save, _dgrad_formula),
    kernels=(cpu.CONV_DGRAD, triton.CONV_DGRAD),
)


# --- dw --------------------------------------------------------------------------------------------------------------


def _wgrad_formula(ctx, ddw):
    dy, x = ctx.saved_tensors
    _, *options, _ = ctx.rest
    ddy = conv_op(x, ddw, *options) if needed(ctx, 0) else None
    dx = conv_dgrad_op(dy, ddw, x.shape[2:], *options) if needed(ctx, 1) else None
    return ddy, dx, None, None, None, None, None, None


conv_wgrad_op = define_op(
    f"conv_wgrad(Tensor dy, Tensor x, SymInt[2] kernel, {OPTIONS}, bool channels_last) -> Tensor",
    reference=reference.conv_wgrad,
    fake=fake_wgrad,
    gradient=Gradient(_save, _wgrad_formula),
    kernels=(cpu.CONV_WGRAD, triton.CONV_WGRAD),
)


# --- both gradients in one op ----------------------------------------------------------------------------------------


def _save_both(ctx, inputs, output):
    left, right, weight, *ctx.rest = inputs
    ctx.save_for_backward(left, right, weight)


def _backward_formula(ctx, ddx, ddw):
    """Of conv_backward: dx = dgrad(dy, weight) and dw = wgrad(dy, x)."""
    dy, x, weight = ctx.saved_tensors
    options = ctx.rest
    first, second, third = (needed(ctx, i) for i in range(3))
    ddy = _sum(
        conv_op(ddx, weight, *options) if ddx is not None and first else None,
        conv_op(x, ddw, *options) if ddw is not None and first else None,
    )
    dx = conv_dgrad_op(dy, ddw, x.shape[2:], *options) if ddw is not None and second else None
    dw = wgrad(dy, ddx, weight, options) if ddx is not None and third else None
    return ddy, dx, dw, None, None, None, None


def _dgrad_backward_formula(ctx, dddy, ddw):
    """Of conv_dgrad_backward: ddy = conv(ddx, weight) and dw = wgrad(dy, ddx)."""
    ddx, dy, weight = ctx.saved_tensors
    options = ctx.rest
    first, second, third = (needed(ctx, i) for i in range(3))
    d_ddx = _sum(
        conv_dgrad_op(dddy, weight, ddx.shape[2:], *options) if dddy is not None and first else None,
        conv_dgrad_op(dy, ddw, ddx.shape[2:], *options) if ddw is not None and first else None,
    )
    d_dy = conv_op(ddx, ddw, *options) if ddw is not None and second else None
    dw = wgrad(dddy, ddx, weight, options) if dddy is not None and third else None
    return d_ddx, d_dy, dw, None, None, None, None


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


conv_backward_op = define_op(
    f"conv_backward(Tensor dy, Tensor x, Tensor weight, {OPTIONS}) -> (Tensor dx, Tensor dw)",
    reference=reference.conv_backward,
    fake=fake_backward,
    gradient=Gradient(_save_both, _backward_formula),
    kernels=(cpu.CONV_BACKWARD,),
)

conv_dgrad_backward_op = define_op(
    f"conv_dgrad_backward(Tensor ddx, Tensor dy, Tensor weight, {OPTIONS}) -> (Tensor ddy, Tensor dw)",
    reference=reference.conv_dgrad_backward,
    fake=fake_dgrad_backward,
    gradient=Gradient(_save_both, _dgrad_backward_formula),
    kernels=(cpu.CONV_DGRAD_BACKWARD,),
)


# --- the public functions --------------------------------------------------------------------------------------------


def conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Two-dimensional convolution without bias. Its gradients of every order compute nothing that is not used.

    x: [N, C, H, W] floating. weight: [K, C/groups, R, S] in x's dtype. stride, padding, dilation: a number or (height,
    width). Returns [N, K, P, Q], channels_last where x or weight is. Under autocast both are cast to its dtype. Add the
    bias by the `bias_act` that follows. A backward pass computes only the gradients that are requested.

    Raises TypeError or ValueError naming the argument.
    """
    x, weight = cast(x, weight)
    return conv_op(
        x, weight, pair(stride, "stride", 1), pair(padding, "padding", 0), pair(dilation, "dilation", 1), groups
    )


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Two-dimensional transposed convolution without bias: the input gradient of `conv2d` as a forward pass.

    x: [N, K, P, Q] floating. weight: [K, C/groups, R, S] in x's dtype. Returns [N, C, H, W] with
    H = (P − 1)·stride − 2·padding + dilation·(R − 1) + output_padding + 1. The rest as for `conv2d`.
    """
    x, weight = cast(x, weight)
    check_operands(x, weight, groups)
    stride, padding, dilation = pair(stride, "stride", 1), pair(padding, "padding", 0), pair(dilation, "dilation", 1)
    extra = pair(output_padding, "output_padding", 0)
    if x.shape[1] != weight.shape[0]:
        raise bad("x", f"{weight.shape[0]} channels, as weight {list(weight.shape)} takes", x.shape[1])
    size = []
    for i in range(2):
        limit = max(stride[i], dilation[i])
        if extra[i] >= limit:
            raise bad("output_padding", f"less than stride or dilation, {limit}", extra[i])
        span = dilation[i] * (weight.shape[2 + i] - 1) + 1
        side = (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + span + extra[i]
        if side <= 0:
            raise bad("padding", f"an output of at least one pixel in dimension {2 + i}", side)
        size.append(side)
    return conv_dgrad_op(x, weight, size, stride, padding, dilation, groups)


def pair(value: int | Sequence[int], name: str, least: int) -> list[int]:
    """The option of both dimensions. Raises ValueError for anything but one or two whole numbers >= least."""
    both = [value, value] if isinstance(value, int) else list(value)
    if len(both) != 2 or not all(isinstance(v, int) and v >= least for v in both):
        raise bad(name, f"a whole number >= {least}, or two", value)
    return both


def check_operands(x: Tensor, weight: Tensor, groups: int) -> None:
    """Raises TypeError or ValueError unless the weight and groups fit each other and x's dtype and device."""
    if not x.is_floating_point():
        raise bad("x", "a floating tensor", x.dtype, TypeError)
    if x.dim() != 4:
        raise bad("x", "[N, C, H, W]", list(x.shape))
    if weight.dim() != 4:
        raise bad("weight", "[K, C/groups, R, S]", list(weight.shape))
    if weight.dtype != x.dtype:
        raise bad("weight", f"x's dtype {x.dtype}", weight.dtype, TypeError)
    if weight.device != x.device:
        raise bad("weight", f"on x's device {x.device}", weight.device)
    if not isinstance(groups, int) or groups < 1 or weight.shape[0] % groups:
        raise bad("groups", f"a divisor of weight's {weight.shape[0]} rows", groups)


def check_input(shape: Sequence[int], weight: Tensor, padding: list[int], dilation: list[int], groups: int) -> None:
    """Raises ValueError unless an x of that shape has the channels and at least the pixels that the weight takes."""
    if shape[1] != weight.shape[1] * groups:
        takes = f"{weight.shape[1] * groups} channels, as weight {list(weight.shape)} with groups={groups} takes"
        raise bad("x", takes, shape[1])
    for i in range(2):
        least = dilation[i] * (weight.shape[2 + i] - 1) + 1 - 2 * padding[i]
        if shape[2 + i] < least:
            raise bad("x", f"at least {least} pixels in dimension {2 + i}", shape[2 + i])


def cast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype == torch.float64:  # autocast does not cast double
        return x, weight
    dtype = torch.get_autocast_dtype(device)
    return x.to(dtype), weight.to(dtype)
