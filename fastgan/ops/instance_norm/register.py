"""instance_norm_act → instance_norm_act_grad → plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op
from fastgan.ops._memory_format import empty, memory_format
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.channel_scale.register import check_image
from fastgan.ops.instance_norm import cpu, reference, triton


def _save_forward(ctx, inputs, output):
    x, *ctx.options = inputs
    _, mean, scale = output
    ctx.save_for_backward(x, mean, scale)


def _forward_formula(ctx, dy, dmean, dscale):
    dx = None if dy is None else instance_norm_act_grad_op(dy, *ctx.saved_tensors, *ctx.options)
    if dmean is not None or dscale is not None:  # not from the public function, which returns y alone
        x, *_ = ctx.saved_tensors
        of_sums = reference.sums_grad(dmean, dscale, x, ctx.options[1])
        dx = of_sums if dx is None else dx + of_sums
    return dx, None, None


def _fake_forward(x, alpha, epsilon):
    sums = x.new_empty(x.shape[:2], dtype=accumulation_dtype(x.dtype))
    return empty(x, memory_format(x)), sums, sums.clone()


instance_norm_act_op = define_op(
    "instance_norm_act(Tensor x, float alpha, float epsilon) -> (Tensor y, Tensor mean, Tensor scale)",
    reference=reference.instance_norm_act,
    fake=_fake_forward,
    gradient=Gradient(_save_forward, _forward_formula),
    kernels=(cpu.FORWARD, triton.FORWARD),
)


def _save_grad(ctx, inputs, output):
    dy, x, _, _, *ctx.options = inputs
    ctx.save_for_backward(dy, x)


def _grad_formula(ctx, ddx):
    return *reference.grad_grad(ddx, *ctx.saved_tensors, *ctx.options), None, None, None, None


def _fake_grad(dy, x, mean, scale, alpha, epsilon):
    return empty(x, memory_format(x))


instance_norm_act_grad_op = define_op(
    "instance_norm_act_grad(Tensor dy, Tensor x, Tensor mean, Tensor scale, float alpha, float epsilon) -> Tensor",
    reference=reference.instance_norm_act_grad,
    fake=_fake_grad,
    gradient=Gradient(_save_grad, _grad_formula),
    kernels=(cpu.GRAD, triton.GRAD),
)

#: Activation → slope below zero; None for the argument's.
_SLOPES = {"linear": 1.0, "relu": 0.0, "leaky_relu": None}


def instance_norm_act(x: Tensor, act: str = "linear", *, alpha: float = 0.2, epsilon: float = 1e-5) -> Tensor:
    """activation((x − mean) / √(variance + epsilon)) over the pixels of each sample and channel, in one op.

    x: [N, C, *] floating, any strides, with more than one pixel. act: "linear", "relu" or "leaky_relu". alpha: slope of
    leaky_relu below zero, >= 0. epsilon: > 0. Returns y like x, dense: channels_last where x is, else contiguous.
    Mean and variance (of all pixels, without correction) are computed in float32, or double for double, in a fixed
    order, so that results repeat bit for bit. It has gradients of every order; from the second one on they are plain
    PyTorch.

    Raises TypeError or ValueError naming the argument. The exact arithmetic: fastgan/ops/instance_norm/reference.py.
    """
    check_image("x", x)
    if x.shape[2:].numel() < 2:
        raise bad("x", "[N, C, *] with more than one pixel", list(x.shape))
    if act not in _SLOPES:
        raise bad("act", f"one of {', '.join(_SLOPES)}", repr(act))
    if not alpha >= 0:
        raise bad("alpha", "a slope >= 0", alpha)
    if not epsilon > 0:
        raise bad("epsilon", "a number > 0", epsilon)
    slope = _SLOPES[act]
    return instance_norm_act_op(x, float(alpha) if slope is None else slope, float(epsilon))[0]
