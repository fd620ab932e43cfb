"""upfirdn2d: linear in x, and its adjoint is itself with up and down exchanged, the filter flipped the other way, and
another padding. So derivatives of every order exist, and the one in x of the second order is zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op
from fastgan.ops._memory_format import memory_format
from fastgan.ops.upfirdn2d import cpu, reference, triton
from fastgan.ops.upfirdn2d.reference import filter_size, output_size

#: Where others' convolutions are recognized as filters, those of more taps are left to the libraries.
MOST_TAPS = 64


def _save(ctx, inputs, output):
    x, filter, up, down, padding, flip, gain = inputs
    ctx.save_for_backward(filter)
    adjoint = adjoint_padding(filter, up, down, padding, x.shape[2:], output.shape[2:])
    ctx.options = (list(down), list(up), adjoint, not flip, gain)


def adjoint_padding(
    filter: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int],
    before: Sequence[int], after: Sequence[int],
) -> list[int]:  # fmt: skip
    """The padding of the adjoint of an upfirdn2d of images [..., *before] to images [..., *after]."""
    found = []
    for axis, taps in enumerate(filter_size(filter)):
        first = taps - 1 - padding[2 * axis]
        # Such that the gradient has the input's size, also where `down` skips rows at the end.
        found += [first, (before[axis] - 1) * up[axis] + taps - after[axis] * down[axis] - first]
    return found


def _formula(ctx, dy):
    (filter,) = ctx.saved_tensors
    return upfirdn2d_op(dy, filter, *ctx.options), None, None, None, None, None, None


def _fake(x, filter, up, down, padding, flip, gain):
    height, width = output_size(x, filter, up, down, padding)
    size = (x.shape[0], x.shape[1], height, width)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _check(
    x: Tensor,
    filter: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> None:
    if x.dim() != 4:
        raise bad("x", "[N, C, H, W]", list(x.shape))
    if not x.is_floating_point():
        raise bad("x", "a floating tensor", x.dtype, TypeError)
    check_factors(up, down)
    check_filter("filter", filter, x)
    if min(output_size(x, filter, up, down, padding)) < 1:
        taps = list(filter_size(filter))
        size = [x.shape[2 + axis] * up[axis] + padding[2 * axis] + padding[2 * axis + 1] for axis in range(2)]
        raise bad("padding", f"a padded, upsampled image of at least the filter's size {taps}", size)


def check_factors(up: Sequence[int], down: Sequence[int]) -> None:
    """Raises ValueError for factors below 1."""
    for name, values in (("up", up), ("down", down)):
        if min(values) < 1:
            raise bad(name, "a whole number >= 1, or two (y, x)", list(values))


def check_filter(name: str, filter: Tensor | None, x: Tensor) -> None:
    """Raises TypeError or ValueError unless it is None or a floating filter [taps] or [kh, kw] on x's device."""
    if filter is None:
        return
    if filter.dim() not in (1, 2) or filter.numel() == 0:
        raise bad(name, "[taps] or [kh, kw]", list(filter.shape))
    if not filter.is_floating_point():
        raise bad(name, "a floating tensor", filter.dtype, TypeError)
    if filter.device != x.device:
        raise bad(name, f"on x's device {x.device}", filter.device)


upfirdn2d_op = define_op(
    "upfirdn2d(Tensor x, Tensor? filter, int[2] up, int[2] down, SymInt[4] padding, bool flip, float gain) -> Tensor",
    reference=reference.upfirdn2d,
    fake=_fake,
    gradient=Gradient(_save, _formula),
    kernels=(cpu.FORWARD, triton.FORWARD),
    check=_check,
)


def upfirdn2d(
    x: Tensor,
    filter: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    *,
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert zeros, pad, filter and keep every down-th pixel, in one pass, with gradients of every order.

    x: [N, C, H, W] floating, any strides. filter: floating [taps] (the outer product with itself is applied) or
    [kh, kw], a constant without gradient, or None (identity). up, down: factors >= 1, one or (y, x): up − 1 zeros
    follow each pixel. padding: pixels of the upsampled image, one number, (y, x) or (top, bottom, left, right);
    negative numbers crop. flip: False convolves (the filter is flipped), True correlates. gain: factor of the result.

    Returns [N, C, (H·up + top + bottom − kh) // down + 1, (W·up + left + right − kw) // down + 1] in x's dtype, dense:
    channels_last where x is, else contiguous. Half types are summed in float32 and rounded once.

    Raises TypeError or ValueError naming the argument. The exact arithmetic: fastgan/ops/upfirdn2d/reference.py.
    """
    if not isinstance(x, Tensor):
        raise bad("x", "a floating tensor", type(x), TypeError)
    if filter is not None and filter.requires_grad:
        raise bad("filter", "a constant: there is no gradient of the filter", "a tensor that requires a gradient")
    up, down, pads = numbers("up", up, (2,)), numbers("down", down, (2,)), numbers("padding", padding, (2, 4))
    if len(pads) == 2:
        pads = [pads[0], pads[0], pads[1], pads[1]]
    return upfirdn2d_op(x, filter, up, down, pads, bool(flip), float(gain))


def numbers(name: str, value: Any, lengths: tuple[int, ...]) -> list[int]:
    """Whole numbers of an argument, of which one or as many as one of `lengths` may be given: at least lengths[0]."""
    if isinstance(value, int):
        return [value] * lengths[0]
    values = list(value) if isinstance(value, (list, tuple)) else []
    if len(values) not in lengths or not all(isinstance(v, int) for v in values):
        raise bad(name, f"a whole number or {' or '.join(map(str, lengths))} of them", value)
    return values
