"""Spectral normalization as ops: power_iteration (constant to autograd) and spectral_scale → spectral_scale_grad →
plain PyTorch. spectral_normalize is the first two at once: a GPU then reads the weights once.

CUDA C++ comes after Triton until a GPU has run and timed it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops._library import Gradient, define_op, needed
from fastgan.ops.spectral_norm import cpu, cuda, reference, triton
from fastgan.ops.spectral_norm.layout import empty_weights

# --- power iteration -------------------------------------------------------------------------------------------------


def _fake_iteration(weights, uv, dims, iterations, v_first, eps):
    return torch.empty_like(uv), uv.new_empty(len(weights))


def _save_nothing(ctx, inputs, output):
    pass


def _constant(ctx, duv, dsigma):
    # By definition: u and v are held constant, and spectral_scale's gradient contains the derivative of sigma.
    return None, None, None, None, None, None


power_iteration_op = define_op(
    "power_iteration(Tensor[] weights, Tensor uv, int[] dims, int iterations, bool v_first, float eps)"
    " -> (Tensor uv, Tensor sigma)",
    reference=reference.power_iteration,
    fake=_fake_iteration,
    gradient=Gradient(_save_nothing, _constant),
    kernels=(cpu.POWER_ITERATION, triton.POWER_ITERATION, cuda.POWER_ITERATION),
)


# --- W / sigma -------------------------------------------------------------------------------------------------------


def _save_scale(ctx, inputs, output):
    weights, uv, sigma, ctx.dims = inputs
    ctx.save_for_backward(*weights, uv, sigma)


def _scale_formula(ctx, dy):
    *weights, uv, sigma = ctx.saved_tensors
    dims = ctx.dims
    wanted = [i for i, g in enumerate(dy) if g is not None and needed(ctx, 0, i)]
    if len(wanted) < len(weights):
        vectors = reference.split(uv, weights, dims)
        uv = torch.cat([part for i in wanted for part in vectors[i]]) if wanted else uv[:0]
        sigma = sigma[wanted]
    gradients = [None] * len(weights)
    if wanted:
        found = spectral_scale_grad_op(
            [dy[i] for i in wanted], [weights[i] for i in wanted], uv, sigma, [dims[i] for i in wanted]
        )
        for i, gradient in zip(wanted, found, strict=True):
            gradients[i] = gradient
    return gradients, None, None, None


def _fake_scale(weights, uv, sigma, dims):
    return empty_weights(weights)


spectral_scale_op = define_op(
    "spectral_scale(Tensor[] weights, Tensor uv, Tensor sigma, int[] dims) -> Tensor[]",
    reference=reference.spectral_scale,
    fake=_fake_scale,
    gradient=Gradient(_save_scale, _scale_formula),
    kernels=(cpu.SCALE, triton.SCALE, cuda.SCALE),
)


# --- both at once ----------------------------------------------------------------------------------------------------


def _save_normalize(ctx, inputs, output):
    weights, _, ctx.dims, *_ = inputs
    uv, sigma, *_ = output
    ctx.save_for_backward(*weights, uv, sigma)


def _normalize_formula(ctx, gradients):
    # uv and sigma are constant, as power_iteration's.
    weights, *_ = _scale_formula(ctx, gradients[2:])
    return weights, None, None, None, None, None, None


def _fake_normalize(weights, uv, dims, iterations, v_first, eps, dtype):
    return [*_fake_iteration(weights, uv, dims, iterations, v_first, eps), *empty_weights(weights, dtype)]


spectral_normalize_op = define_op(
    "spectral_normalize(Tensor[] weights, Tensor uv, int[] dims, int iterations, bool v_first, float eps,"
    " ScalarType? dtype) -> Tensor[]",
    reference=reference.spectral_normalize,
    fake=_fake_normalize,
    gradient=Gradient(_save_normalize, _normalize_formula),
    kernels=(cpu.NORMALIZE, triton.NORMALIZE, cuda.NORMALIZE),
)


# --- the gradient of W / sigma ---------------------------------------------------------------------------------------


def _save_grad(ctx, inputs, output):
    dy, weights, uv, sigma, ctx.dims = inputs
    ctx.save_for_backward(*dy, *weights, uv, sigma)


def _grad_formula(ctx, ddw):
    # Second order in the weights themselves (unrolled steps, meta-learning): plain PyTorch. sigma is uᵀ W v, so that
    # its own derivative is u vᵀ.
    *tensors, uv, _ = ctx.saved_tensors
    dy, weights = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
    d_dy, d_weights = [None] * len(dy), [None] * len(dy)
    vectors = reference.split(uv, weights, ctx.dims)
    for i, t in enumerate(ddw):
        if t is None:
            continue
        w, dim = weights[i], ctx.dims[i]
        g = dy[i].to(w.dtype)
        u, v = vectors[i]
        shape = [w.shape[dim], *(n for d, n in enumerate(w.shape) if d != dim)]
        outer = torch.outer(u, v).view(shape).movedim(0, dim)
        s = torch.dot(u, torch.mv(reference.matrix(w, dim), v))
        along, inner = (t * outer).sum(), (g * w).sum()
        d_dy[i] = ((t - along / s * w) / s).to(dy[i].dtype)
        d_weights[i] = -((t * g).sum() * outer + along * g) / s**2 + 2 * inner * along / s**3 * outer
    return d_dy, d_weights, None, None, None


def _fake_grad(dy, weights, uv, sigma, dims):
    return empty_weights(weights)


spectral_scale_grad_op = define_op(
    "spectral_scale_grad(Tensor[] dy, Tensor[] weights, Tensor uv, Tensor sigma, int[] dims) -> Tensor[]",
    reference=reference.spectral_scale_grad,
    fake=_fake_grad,
    gradient=Gradient(_save_grad, _grad_formula),
    kernels=(cpu.SCALE_GRAD, triton.SCALE_GRAD, cuda.SCALE_GRAD),
)


# --- the public functions --------------------------------------------------------------------------------------------


def power_iteration(
    weights: list[Tensor],
    uv: Tensor,
    dims: list[int],
    *,
    iterations: int = 1,
    v_first: bool = False,
    eps: float = 1e-12,
) -> tuple[Tensor, Tensor]:
    """Singular vectors and largest singular values of a group of weights, by power iteration, for all at once.

    weights: tensors of two or more dimensions, one floating dtype, one device. uv: u_0, v_0, u_1, v_1, ... in one flat
    tensor of that dtype. dims: the dimension of each weight that gives the rows of its matrix. iterations: 0 computes
    sigma alone. Returns uv anew and sigma [len(weights)], both constant to autograd. A weight with NaN or infinity in
    it keeps its vectors and has sigma NaN.

    Raises TypeError or ValueError naming the argument. The exact arithmetic: fastgan/ops/spectral_norm/reference.py.
    """
    _check(weights, uv, dims)
    _check_iteration(iterations, eps)
    with torch.no_grad():
        return power_iteration_op([w.detach() for w in weights], uv.detach(), dims, iterations, v_first, eps)


def spectral_normalize(
    weights: list[Tensor],
    uv: Tensor,
    dims: list[int],
    *,
    iterations: int = 1,
    v_first: bool = False,
    eps: float = 1e-12,
    dtype: torch.dtype | None = None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """`power_iteration`, and `spectral_scale` with its results, as one op: (weights / sigma, uv, sigma).

    Arguments, errors and arithmetic are those of the two functions; uv and sigma are constant to autograd.
    dtype: bfloat16 or float16 to round weights / sigma to it, as autocast would before a convolution; their gradients
    then have that dtype, those of the weights have theirs. None is the weights' dtype.
    """
    _check(weights, uv, dims)
    _check_iteration(iterations, eps)
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise bad("dtype", "bfloat16, float16 or None", dtype)
    uv, sigma, *scaled = spectral_normalize_op(weights, uv.detach(), dims, iterations, v_first, eps, dtype)
    return scaled, uv.detach(), sigma.detach()


def spectral_scale(weights: list[Tensor], uv: Tensor, sigma: Tensor, dims: list[int]) -> list[Tensor]:
    """weights / sigma, for all at once, with the gradient through sigma.

    uv, sigma: as `power_iteration` returned them for these weights: the gradient assumes sigma = uᵀ W v.
    Returns tensors like the weights, in their layouts.
    """
    _check(weights, uv, dims)
    if sigma.shape != (len(weights),):
        raise bad("sigma", f"[{len(weights)}]", list(sigma.shape))
    return spectral_scale_op(weights, uv, sigma, dims)


def _check_iteration(iterations: int, eps: float) -> None:
    if iterations < 0:
        raise bad("iterations", "a whole number >= 0", iterations)
    if not eps > 0:
        raise bad("eps", "a number > 0", eps)


def _check(weights: list[Tensor], uv: Tensor, dims: list[int]) -> None:
    if not weights:
        raise bad("weights", "one tensor or more", "none")
    if len(dims) != len(weights):
        raise bad("dims", f"one number for each of {len(weights)} weights", len(dims))
    length = 0
    for i, (weight, dim) in enumerate(zip(weights, dims, strict=True)):
        if not weight.is_floating_point():
            raise bad(f"weights[{i}]", "a floating tensor", weight.dtype, TypeError)
        if weight.dim() < 2:
            raise bad(f"weights[{i}]", "two dimensions or more", list(weight.shape))
        if weight.dtype != weights[0].dtype or weight.device != weights[0].device:
            like = f"like weights[0], {weights[0].dtype} on {weights[0].device}"
            raise bad(f"weights[{i}]", like, f"{weight.dtype} on {weight.device}", TypeError)
        if not 0 <= dim < weight.dim():
            raise bad(f"dims[{i}]", f"a dimension of {list(weight.shape)}", dim)
        if not weight.numel():
            raise bad(f"weights[{i}]", "at least one element", list(weight.shape))
        length += weight.shape[dim] + weight.numel() // weight.shape[dim]
    if uv.shape != (length,):
        raise bad("uv", f"[{length}], the singular vectors of all weights", list(uv.shape))
    if uv.dtype != weights[0].dtype or uv.device != weights[0].device:
        raise bad("uv", f"{weights[0].dtype} on {weights[0].device}", f"{uv.dtype} on {uv.device}", TypeError)
