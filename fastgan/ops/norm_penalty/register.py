"""norm_penalty → sample_scale ↔ sample_dot."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops._memory_format import empty, memory_format
from fastgan.ops.norm_penalty import cpu, reference, triton

# --- the penalty -----------------------------------------------------------------------------------------------------


def _save_penalty(ctx, inputs, output):
    g, ctx.target = inputs
    ctx.save_for_backward(g, *output)


def _penalty_formula(ctx, dvalue, dslope, dsize):
    g, _, slope, size = ctx.saved_tensors
    terms = []
    if dvalue is not None:
        terms.append(slope * dvalue)
    # Slope and size have cotangents only in third and higher orders.
    if dslope is not None and ctx.target is not None:
        terms.append(torch.where(size == 0, 0.0, 2 * ctx.target * dslope / size**3))
    if dsize is not None:
        terms.append(torch.where(size == 0, 0.0, dsize / size))
    return sample_scale_op(g, sum(terms[1:], terms[0])) if terms else None, None


def _per_sample(a: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], dtype=reference.accumulation_dtype(a.dtype))


def _fake_penalty(g, target):
    return _per_sample(g), _per_sample(g), _per_sample(g)


norm_penalty_op = define_op(
    "norm_penalty(Tensor g, float? target) -> (Tensor value, Tensor slope, Tensor size)",
    reference=reference.norm_penalty,
    fake=_fake_penalty,
    gradient=Gradient(_save_penalty, _penalty_formula),
    kernels=(cpu.NORM_PENALTY, triton.NORM_PENALTY),
)


# --- its gradient, and the gradient of that --------------------------------------------------------------------------


def _save_two(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _scale_formula(ctx, dy):
    a, c = ctx.saved_tensors
    return (
        sample_scale_op(dy, c) if needed(ctx, 0) else None,
        sample_dot_op(dy, a) if needed(ctx, 1) else None,
    )


def _fake_scale(a, c):
    return empty(a, memory_format(a))


sample_scale_op = define_op(
    "sample_scale(Tensor a, Tensor c) -> Tensor",
    reference=reference.sample_scale,
    fake=_fake_scale,
    gradient=Gradient(_save_two, _scale_formula),
    kernels=(cpu.SAMPLE_SCALE, triton.SAMPLE_SCALE),
)


def _dot_formula(ctx, d):
    a, b = ctx.saved_tensors
    return (
        sample_scale_op(b, d) if needed(ctx, 0) else None,
        sample_scale_op(a, d) if needed(ctx, 1) else None,
    )


def _fake_dot(a, b):
    return _per_sample(a)


sample_dot_op = define_op(
    "sample_dot(Tensor a, Tensor b) -> Tensor",
    reference=reference.sample_dot,
    fake=_fake_dot,
    gradient=Gradient(_save_two, _dot_formula),
    kernels=(cpu.SAMPLE_DOT, triton.SAMPLE_DOT),
)


# --- the public function ---------------------------------------------------------------------------------------------


def norm_penalty(g: Tensor, target: float | None = None) -> Tensor:
    """(‖g_n‖ − target)² for each sample, or ‖g_n‖² without a target: [N], in one pass over g, with gradients of every
    order.

    g: [N, *] floating, any strides. Returns float32, or float64 for double. Raises TypeError or ValueError naming the
    argument. The exact arithmetic: fastgan/ops/norm_penalty/reference.py.
    """
    if not isinstance(g, Tensor) or not g.is_floating_point():
        raise bad("g", "a floating tensor", getattr(g, "dtype", type(g)), TypeError)
    if g.dim() < 2:
        raise bad("g", "[N, *]", list(g.shape))
    value, _, _ = norm_penalty_op(g, target)
    return value
