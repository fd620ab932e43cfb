"""Specification of filtered_lrelu and its derivative, in plain PyTorch. Other back-ends are tested against it.

x [N, C, H, W] of any floating dtype; bias [C]; filters [taps] (separable), [kh, kw], or None (identity); up and down
(y, x); padding (top, bottom, left, right) of the upsampled image. The steps, with their rounding points:

1. x, bias and filters are widened to the accumulation dtype (float32 for the half types, else x's own)
2. u = x + bias
3. zeros are inserted after every pixel, then padding (negative padding crops), then convolution with the first filter
   and the factor up_y · up_x: u [N, C, HH, HW]
4. v = leaky_relu(u) · gain, limited to [−clamp, clamp] where a clamp is given
5. convolution with the second filter; every down-th row and column is kept
6. y is rounded once to x's dtype

Masks: uint8 [N, C, HH, ceil(HW / 4)], contiguous. Two bits per sample of u: bit 2·(i mod 4) of byte i // 4 is 1 where
u <= 0, the next bit is 1 where v is on the clamp. Bits past the end of a row are 0. The derivative is 1, slope, or
(on the clamp) 0, times gain.

Karras et al. 2021 (arXiv:2106.12423), appendix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.upfirdn2d.reference import filter_size, upfirdn2d

_ONE, _NONE = (1, 1), (0, 0, 0, 0)


def high_size(x: Tensor, filter: Tensor | None, up: Sequence[int], padding: Sequence[int]) -> list[int]:
    """Height and width after upsampling, padding and the first filter."""
    return [
        x.shape[2 + axis] * up[axis] + padding[2 * axis] + padding[2 * axis + 1] - taps + 1
        for axis, taps in enumerate(filter_size(filter))
    ]


def low_size(
    high: Sequence[int], filter: Tensor | None, down: Sequence[int], padding: Sequence[int] = (0, 0, 0, 0)
) -> list[int]:
    """Height and width after padding, the second filter and downsampling."""
    return [
        (high[axis] + padding[2 * axis] + padding[2 * axis + 1] - taps) // down[axis] + 1
        for axis, taps in enumerate(filter_size(filter))
    ]


def filtered_lrelu(
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
) -> tuple[Tensor, Tensor]:
    """y [N, C, OH, OW] and the masks (uint8 [0] unless they are wanted)."""
    return forward(upfirdn2d, x, bias, up_filter, down_filter, up, down, padding, gain, slope, clamp, masks)


def forward(resample, x, bias, up_filter, down_filter, up, down, padding, gain, slope, clamp, masks):
    """The same with another `upfirdn2d` for both filters."""
    u = x.to(accumulation_dtype(x.dtype))
    if bias is not None:
        u = u + bias.to(u.dtype).view(1, -1, 1, 1)
    u = resample(u, up_filter, up, _ONE, padding, False, float(up[0] * up[1]))
    v = F.leaky_relu(u, slope) * gain
    bits = (u <= 0).to(torch.uint8) if masks else None
    if clamp is not None:
        if bits is not None:
            bits = bits + 2 * (v.abs() >= clamp).to(torch.uint8)
        v = v.clamp(-clamp, clamp)
    y = resample(v, down_filter, _ONE, down, _NONE, False, 1.0)
    packed = torch.empty(0, dtype=torch.uint8, device=x.device) if bits is None else _pack(bits)
    return dense(y.to(x.dtype), memory_format(x)), packed


def filtered_lrelu_linear(
    x: Tensor,
    masks: Tensor,
    first_filter: Tensor | None,
    second_filter: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    first_padding: Sequence[int],
    second_padding: Sequence[int],
    flip: bool,
    gain: float,
    slope: float,
) -> Tensor:
    """x [N, C, H, W], upsampled and filtered, times gain and the factor (1, slope or 0) of each sample's mask, then
    padded, filtered and downsampled. flip: the filters are correlated, not convolved."""
    options = (up, down, first_padding, second_padding, flip, gain, slope)
    return linear(upfirdn2d, x, masks, first_filter, second_filter, *options)


def linear(
    resample, x, masks, first_filter, second_filter, up, down, first_padding, second_padding, flip, gain, slope
):  # fmt: skip
    """The same with another `upfirdn2d` for both filters."""
    u = resample(x.to(accumulation_dtype(x.dtype)), first_filter, up, _ONE, first_padding, flip, 1.0)
    bits = _unpack(masks, u.shape[3])
    # Full tensors, because torch.where of two numbers is float32 also for double.
    factor = torch.where(bits == 1, torch.full_like(u, slope), torch.ones_like(u)).masked_fill(bits > 1, 0)
    y = resample(u * factor * gain, second_filter, _ONE, down, second_padding, flip, 1.0)
    return dense(y.to(x.dtype), memory_format(x))


def _pack(bits: Tensor) -> Tensor:
    n, c, h, w = bits.shape
    four = F.pad(bits, (0, -w % 4)).reshape(n, c, h, -(-w // 4), 4)
    return (four[..., 0] + four[..., 1] * 4 + four[..., 2] * 16 + four[..., 3] * 64).contiguous()


def _unpack(masks: Tensor, width: int) -> Tensor:
    four = torch.stack([(masks >> shift) & 3 for shift in (0, 2, 4, 6)], -1)
    return four.flatten(3)[..., :width]
