"""scale_noise_bias_act → scale_noise_bias_act_grad, which is differentiated by itself.

It is what follows the shared convolution of a modulated layer: the demodulation factor, noise, bias, activation, gain
and clamp in one pass over memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops._memory_format import empty, memory_format
from fastgan.ops._zero_gradients import reach_leaves
from fastgan.ops.bias_act import bias_act
from fastgan.ops.bias_act.register import check_options
from fastgan.ops.channel_scale import cpu, reference, triton
from fastgan.ops.channel_scale.register import channel_scale, check_image, wide

_OPTIONS = "float alpha, float gain, float? clamp"


# --- forward ---------------------------------------------------------------------------------------------------------


def _save_forward(ctx, inputs, output):
    x, scale, noise, bias, *options = inputs
    ctx.options = alpha, _, clamp = options
    ctx.one_noise = noise is not None and noise.shape[0] == 1
    ctx.reaches_leaves, ctx.biases = alpha != 1, [t for t in (noise, bias) if t is not None]
    # Without an activation and a clamp the slope is a constant, and the output may be overwritten.
    ctx.save_for_backward(None if alpha == 1 and clamp is None else output, x, scale)


def _forward_formula(ctx, dy):
    saved, x, scale = ctx.saved_tensors
    wanted = [needed(ctx, i) for i in (1, 2, 3)]
    dx, dscale, dnoise, db = grad_op(dy, dy if saved is None else saved, x, scale, *ctx.options, *wanted)
    if wanted[1] and ctx.one_noise:
        dnoise = dnoise.sum(0, keepdim=True)
    sums = [value if is_wanted else None for value, is_wanted in zip((dscale, dnoise, db), wanted, strict=True)]
    gradients = [dx, *sums]
    if ctx.reaches_leaves:
        gradients = reach_leaves(ctx, gradients)
    return *gradients, None, None, None


def _fake_forward(x, scale, noise, bias, alpha, gain, clamp):
    return empty(x, memory_format(x))


scale_noise_bias_act_op = define_op(
    f"scale_noise_bias_act(Tensor x, Tensor scale, Tensor? noise, Tensor? bias, {_OPTIONS}) -> Tensor",
    reference=reference.scale_noise_bias_act,
    fake=_fake_forward,
    gradient=Gradient(_save_forward, _forward_formula),
    kernels=(cpu.FORWARD, triton.FORWARD),
)


# --- gradient --------------------------------------------------------------------------------------------------------


def _save_grad(ctx, inputs, output):
    dy, saved, x, scale, *options = inputs
    ctx.options = tuple(options[:3])
    ctx.save_for_backward(dy, saved, x, scale)


def _grad_formula(ctx, ddx, ddscale, ddnoise, ddb):
    """dp = dy · slope; dx = dp · scale, dscale = Σ dp · x, dnoise = Σ dp, db = Σ dp. Each term is again the gradient's
    op with other operands, since that is linear in all of them."""
    dy, saved, x, scale = ctx.saved_tensors
    none = (None,) * 6
    terms, d_x, d_scale = [], None, None
    if ddx is not None:
        term, dot, _, _ = grad_op(ddx, saved, dy, scale, *ctx.options, needed(ctx, 3), False, False)
        terms.append(term)
        d_scale = dot if needed(ctx, 3) else None
    if ddscale is not None and ddscale.numel():
        if needed(ctx, 0):
            terms.append(grad_op(x, saved, x, ddscale, *ctx.options, False, False, False)[0])
        if needed(ctx, 2):
            d_x = grad_op(dy, saved, dy, ddscale, *ctx.options, False, False, False)[0]
    if needed(ctx, 0):
        spread = [ddnoise] if ddnoise is not None and ddnoise.numel() else []
        if ddb is not None and ddb.numel():
            spread.append(ddb.view(-1, *[1] * (dy.dim() - 2)))
        if spread:
            ones = scale.new_ones(scale.shape)
            full = sum(spread[1:], spread[0]).to(dy.dtype).expand_as(dy)
            terms.append(grad_op(full, saved, dy, ones, *ctx.options, False, False, False)[0])
    ddy = sum(terms[1:], terms[0]) if terms and needed(ctx, 0) else None
    return ddy, None, d_x, d_scale, *none


def _fake_grad(dy, saved, x, scale, alpha, gain, clamp, scale_grad, noise_grad, bias_grad):
    n, c, *pixels = dy.shape
    sizes = [(n, c) if scale_grad else (0,), (n, 1, *pixels) if noise_grad else (0,), (c,) if bias_grad else (0,)]
    return empty(dy, memory_format(saved)), *(scale.new_empty(size) for size in sizes)


grad_op = define_op(
    f"scale_noise_bias_act_grad(Tensor dy, Tensor saved, Tensor x, Tensor scale, {_OPTIONS}, bool scale_grad,"
    " bool noise_grad, bool bias_grad) -> (Tensor dx, Tensor dscale, Tensor dnoise, Tensor db)",
    reference=reference.scale_noise_bias_act_grad,
    fake=_fake_grad,
    gradient=Gradient(_save_grad, _grad_formula),
    kernels=(cpu.GRAD, triton.GRAD),
)


# --- the public function ---------------------------------------------------------------------------------------------


def scale_noise_bias_act(
    x: Tensor,
    scale: Tensor | None,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    act: str = "leaky_relu",
    *,
    alpha: float = 0.2,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
) -> Tensor:
    """clamp(activation(x · scale + noise + bias) · gain) in one pass over memory, with gradients of every order.

    x: [N, C, *] floating, any strides. scale: [N, C] or None (1). noise: [N, 1, *] or [1, 1, *], already times its
    strength, or None. bias: [C] or None. All three are in x's dtype or float32. act, alpha, gain, clamp: as for
    `bias_act`; clamp limits |y|. Returns y like x, dense. The gradients of scale, noise and bias are summed in the same
    pass as the input gradient, in a fixed order. Activations other than linear and leaky_relu take a pass for each of
    the three.

    Raises TypeError or ValueError naming the argument. The exact arithmetic: fastgan/ops/channel_scale/reference.py.
    """
    check_image("x", x)
    check_options(act, alpha, gain, clamp)
    if noise is not None:
        noise = wide("noise", noise, x, [torch.Size((n, 1, *x.shape[2:])) for n in (x.shape[0], 1)])
    one_pass = scale is not None and (act == "linear" or (act == "leaky_relu" and alpha > 0))
    if not one_pass:
        x = x if scale is None else channel_scale(x, scale)
        x = x if noise is None else (x + noise).to(x.dtype)
        return bias_act(x, bias, act, alpha=alpha, gain=gain, clamp=clamp)
    assert scale is not None
    scale = wide("scale", scale, x, [x.shape[:2]])
    bias = None if bias is None else wide("bias", bias, x, [x.shape[1:2]])
    return scale_noise_bias_act_op(x, scale, noise, bias, 1.0 if act == "linear" else alpha, gain, clamp)
