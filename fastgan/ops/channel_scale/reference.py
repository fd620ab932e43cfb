"""Specification of channel_scale, channel_dot and scale_noise_bias_act, in plain PyTorch.

x, a, b, y [N, C, *] of any floating dtype; the accumulation dtype is float32 for the half types, else x's own. Scales
and sums [N, C], noise [N or 1, 1, *] and biases [C] are in the accumulation dtype, and every result is rounded once.

    channel_scale            y = x · scale
    channel_dot              dot[n, c] = Σ a · b over the pixels
    scale_noise_bias_act     y = clamp(leaky_relu(x · scale + noise + bias, alpha) · gain, −clamp, +clamp)

The first two are each other's derivatives. With alpha = 1 the third has no activation. Its derivative is linear in the
cotangent; the sign of the saved output gives the slope, which requires gain > 0 and alpha > 0. The slope at the kink is
the left one, and zero on the clamp.

Results are dense, in the layout that `memory_format` chooses from the first tensor (of a gradient: from the output
that was saved). Scaling and adding around one dense convolution in place of weights for each sample follows StyleGAN2
(Karras et al. 2020, arXiv:1912.04958, section 2.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format
from fastgan.ops.bias_act.reference import accumulation_dtype


def _wide(x: Tensor) -> Tensor:
    return x.to(accumulation_dtype(x.dtype))


def _spread(scale: Tensor, x: Tensor) -> Tensor:
    """[N, C] or [C] as a factor of x."""
    return scale.view(*scale.shape, *[1] * (x.dim() - 2))


def _over_pixels(x: Tensor) -> Tensor:
    """The sum [N, C]. A tensor without pixels is its own, as a copy."""
    return x.sum(list(range(2, x.dim()))) if x.dim() > 2 else x.clone()


def channel_scale(x: Tensor, scale: Tensor) -> Tensor:
    """x [N, C, *], scale [N, C] → like x."""
    return dense((_wide(x) * _spread(scale, x)).to(x.dtype), memory_format(x))


def channel_dot(a: Tensor, b: Tensor) -> Tensor:
    """a, b [N, C, *] → [N, C]."""
    return _over_pixels(_wide(a) * _wide(b))


def scale_noise_bias_act(
    x: Tensor,
    scale: Tensor,
    noise: Tensor | None,
    bias: Tensor | None,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """x [N, C, *], scale [N, C], noise [N or 1, 1, *] or None, bias [C] or None → y like x."""
    layout = memory_format(x)
    y = _wide(x) * _spread(scale, x)
    if noise is not None:
        y = y + noise
    if bias is not None:
        y = y + _spread(bias, x)
    y = torch.nn.functional.leaky_relu(y, alpha)
    if gain != 1:
        y = y * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return dense(y.to(x.dtype), layout)


def slope(saved: Tensor, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """The slope that the output `saved` shows, in the accumulation dtype."""
    wide = _wide(saved)
    result = torch.where(wide > 0, wide.new_full((), gain), alpha * gain)
    return result if clamp is None else torch.where(wide.abs() < clamp, result, 0.0)


def scale_noise_bias_act_grad(
    dy: Tensor,
    saved: Tensor,
    x: Tensor,
    scale: Tensor,
    alpha: float,
    gain: float,
    clamp: float | None,
    scale_grad: bool,
    noise_grad: bool,
    bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """With dp = dy · slope(saved): dx = dp · scale, dscale = Σ dp · x over the pixels, dnoise = Σ dp over the channels,
    and db = Σ dp over samples and pixels, from dp before it is rounded.

    dy, saved (the output) and x like each other. Returns dx like dy, dscale [N, C], dnoise [N, 1, *] and db [C]; those
    that are not asked for are empty.
    """
    dp = _wide(dy) * slope(saved, alpha, gain, clamp)
    none = dp.new_empty(0)
    return (
        dense((dp * _spread(scale, dp)).to(dy.dtype), memory_format(saved)),
        _over_pixels(dp * x) if scale_grad else none,
        dp.sum(1, keepdim=True).contiguous() if noise_grad else none.clone(),
        dp.sum([0, *range(2, dp.dim())]) if bias_grad else none.clone(),
    )
