"""Modulated convolution: styles scale the input channels, demodulation scales the output channels.

The paper scales the weights for each sample and convolves each sample with weights of its own. Scales of input and
output channels commute with a convolution, so one dense convolution serves all samples:

    y[n] = d[n] · (weight ∗ (styles[n] · x[n])),    d[n, o] = rsqrt(Σ_ik (weight[o, i, k] · styles[n, i])² + 1e-8)

d needs only the sums over the kernel, Σ_k weight²: a product of two small matrices (Karras et al. 2020,
arXiv:1912.04958, section 2.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops.channel_scale import channel_scale, scale_noise_bias_act
from fastgan.ops.conv import conv2d, conv_transpose2d
from fastgan.ops.upfirdn2d import upfirdn2d

_EPSILON = 1e-8
_HALVES = (torch.float16, torch.bfloat16)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    up: bool = False,
    padding: int = 0,
    filter: Tensor | None = None,
    input_gain: Tensor | None = None,
) -> Tensor:
    """StyleGAN2's modulated convolution without weights for each sample, with gradients of every order.

    x: [N, I, H, W] floating. weight: [O, I, k, k] in x's dtype or float32. styles: [N, I] in x's dtype or float32.
    demodulate: scale each output channel to unit expected variance, from weight and styles in float32. up: a
    transposed convolution of stride 2, then `filter` ([taps] or [kh, kw], or None for no filter) with a gain of 4, so
    that the output has twice the size of a convolution's. padding: pixels on each side, as of a convolution.
    input_gain: a scalar, [I] or [N, I] that scales x after the demodulation factor is computed (StyleGAN3).

    Returns [N, O, H + 2·padding − k + 1, W + 2·padding − k + 1], twice that with up. In half precision weight and
    styles are scaled to at most 1 before the convolution and the result is scaled back, so that float16 does not
    overflow. Under autocast x is cast to its dtype. Raises TypeError or ValueError naming the argument.
    """
    y, scale = _convolve(x, weight, styles, demodulate, up, padding, filter, input_gain)
    return y if scale is None else channel_scale(y, scale)


def modulated_layer(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    demodulate: bool = True,
    up: bool = False,
    padding: int = 0,
    filter: Tensor | None = None,
    input_gain: Tensor | None = None,
    act: str = "leaky_relu",
    alpha: float = 0.2,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
) -> Tensor:
    """A layer of StyleGAN2's synthesis network: `modulated_conv2d`, then noise, bias, activation, gain and clamp, with
    the demodulation factor in the same pass (`scale_noise_bias_act`).

    noise: [N, 1, H, W] or [1, 1, H, W] of the output's size, already times its strength, or None. bias: [O] or None.
    act, alpha, gain, clamp: as for `bias_act`. The other arguments, and errors, are those of `modulated_conv2d`.
    """
    y, scale = _convolve(x, weight, styles, demodulate, up, padding, filter, input_gain)
    return scale_noise_bias_act(y, scale, noise, bias, act, alpha=alpha, gain=gain, clamp=clamp)


def _convolve(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    up: bool,
    padding: int,
    filter: Tensor | None,
    input_gain: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """The shared convolution, and the factor [N, O] that its output still needs (None: 1)."""
    _check(x, weight, styles, padding, input_gain)
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    with torch.autocast(x.device.type, enabled=False):
        if x.dtype != torch.float64:
            weight, styles = weight.float(), styles.float()
        scale = _demodulation(weight, styles) if demodulate else None
        if scale is not None and x.dtype in _HALVES:
            weight, styles, scale = _prenormalize(weight, styles, scale)
        if input_gain is not None:
            styles = styles * input_gain.to(styles.dtype)
        x, weight = channel_scale(x, styles), weight.to(x.dtype)
        if up:
            return _up_convolution(x, weight, padding, filter), scale
        return conv2d(x, weight, padding=padding), scale


def _demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """d [N, O] for weight [O, I, k, k] and styles [N, I]."""
    squares = weight.square().sum((2, 3))  # faster than channel_dot on rows of nine numbers
    return (styles.square() @ squares.t() + _EPSILON).rsqrt()


def _prenormalize(weight: Tensor, styles: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and styles such that no product of the convolution is larger than max|x| / √(I·k²), and the scale that
    undoes this.

    The factors cancel in the result, so that they are constants for autograd and the gradients stay exact.
    """
    with torch.no_grad():
        fan = math.sqrt(weight[0].numel())
        largest = weight.abs().amax((1, 2, 3)).clamp(min=1e-20) * fan  # [O]
        strongest = styles.abs().amax(1).clamp(min=1e-20)  # [N]
    return (
        weight / largest.view(-1, 1, 1, 1),
        styles / strongest.view(-1, 1),
        scale * (largest * strongest.view(-1, 1)),
    )


def _up_convolution(x: Tensor, weight: Tensor, padding: int, filter: Tensor | None) -> Tensor:
    """A convolution of x with zeros between its pixels, filtered: twice the size of x's convolution."""
    y = conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    pads = []
    for axis in range(2):
        taps = 1 if filter is None else filter.shape[min(axis, filter.dim() - 1)]
        kernel = weight.shape[2 + axis]
        # The filter covers as many pixels before as after the middle of two new pixels.
        pads += [padding + (taps + 1) // 2 - (kernel - 1), padding + (taps - 2) // 2 - (kernel - 2)]
    return upfirdn2d(y, filter, padding=tuple(pads), gain=4.0)


def _check(x: Tensor, weight: Tensor, styles: Tensor, padding: int, input_gain: Tensor | None) -> None:
    if x.dim() != 4:
        raise bad("x", "[N, I, H, W]", list(x.shape))
    if weight.dim() != 4 or weight.shape[1] != x.shape[1]:
        raise bad("weight", f"[O, {x.shape[1]}, k, k] for x {list(x.shape)}", list(weight.shape))
    if styles.shape != x.shape[:2]:
        raise bad("styles", f"{list(x.shape[:2])}, samples and channels of x", list(styles.shape))
    for name, value in (("x", x), ("weight", weight), ("styles", styles)):
        if not value.is_floating_point():
            raise bad(name, "a floating tensor", value.dtype, TypeError)
        if x.dtype == torch.float64 and value.dtype != torch.float64:
            raise bad(name, f"x's dtype {x.dtype}", value.dtype, TypeError)
        if value.device != x.device:
            raise bad(name, f"on x's device {x.device}", value.device)
    if not isinstance(padding, int) or padding < 0:
        raise bad("padding", "a whole number >= 0", padding)
    if input_gain is not None and input_gain.shape not in ((), x.shape[1:2], x.shape[:2]):
        wanted = f"a scalar, [{x.shape[1]}] or {list(x.shape[:2])}"
        raise bad("input_gain", wanted, list(input_gain.shape))
