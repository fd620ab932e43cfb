"""Specification of spectral normalization (Miyato et al. 2018, arXiv:1802.05957), in plain PyTorch.

A group is L weights of one dtype on one device. Weight l of any shape is a matrix W [rows, columns]: dimension
`dims[l]` (the outputs: 0, or 1 of a transposed convolution) gives the rows, the others in their order the columns.
u [rows] and v [columns] are the current estimates of its singular vectors. All are in one flat tensor uv: u_0, v_0, ...

    power_iteration      from u and v, `iterations` times: u = W v / ‖W v‖, v = Wᵀu / ‖Wᵀu‖ (v before u, if `v_first`),
                         with norms of at least eps; then sigma = uᵀ W v
    spectral_scale       W / sigma
    spectral_normalize   both
    spectral_scale_grad  (dY − ⟨dY, W⟩ / sigma · u vᵀ) / sigma, the derivative of W / sigma through sigma with u and v
                         held constant

The arithmetic is in the weights' dtype. A matrix in which an iteration meets NaN or infinity keeps its u and v, and its
sigma is NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format


def matrix(weight: Tensor, dim: int) -> Tensor:
    """weight as [rows, columns]."""
    return weight.movedim(dim, 0).flatten(1)


def split(uv: Tensor, weights: list[Tensor], dims: list[int]) -> list[tuple[Tensor, Tensor]]:
    """(u, v) of each weight, as views of uv."""
    sizes = []
    for weight, dim in zip(weights, dims, strict=True):
        rows = weight.shape[dim]
        sizes += [rows, weight.numel() // max(rows, 1)]
    parts = uv.split(sizes)
    return list(zip(parts[::2], parts[1::2], strict=True))


def power_iteration(
    weights: list[Tensor], uv: Tensor, dims: list[int], iterations: int, v_first: bool, eps: float
) -> tuple[Tensor, Tensor]:
    """New uv, and sigma [L] in the weights' dtype."""
    vectors, sigmas = [], []
    for weight, dim, (u, v) in zip(weights, dims, split(uv, weights, dims), strict=True):
        w = matrix(weight, dim)
        new_u, new_v = u, v
        for _ in range(iterations):
            if v_first:
                new_v = F.normalize(torch.mv(w.t(), new_u), dim=0, eps=eps)
                new_u = F.normalize(torch.mv(w, new_v), dim=0, eps=eps)
            else:
                new_u = F.normalize(torch.mv(w, new_v), dim=0, eps=eps)
                new_v = F.normalize(torch.mv(w.t(), new_u), dim=0, eps=eps)
        sigma = torch.dot(new_u, torch.mv(w, new_v))
        good = sigma.isfinite()
        vectors += [torch.where(good, new_u, u), torch.where(good, new_v, v)]
        sigmas.append(torch.where(good, sigma, torch.nan))
    return torch.cat(vectors), torch.stack(sigmas)


def spectral_scale(weights: list[Tensor], uv: Tensor, sigma: Tensor, dims: list[int]) -> list[Tensor]:
    """W / sigma for each weight, dense in the layout that `memory_format` chooses. uv is used by the gradient."""
    return [dense(weight / sigma[i], memory_format(weight)) for i, weight in enumerate(weights)]


def spectral_normalize(
    weights: list[Tensor],
    uv: Tensor,
    dims: list[int],
    iterations: int,
    v_first: bool,
    eps: float,
    dtype: torch.dtype | None,
) -> list[Tensor]:
    """New uv, sigma, and W / sigma for each weight, rounded to dtype (None: the weights')."""
    uv, sigma = power_iteration(weights, uv, dims, iterations, v_first, eps)
    scaled = spectral_scale(weights, uv, sigma, dims)
    return [uv, sigma, *(scaled if dtype is None else [y.to(dtype) for y in scaled])]


def spectral_scale_grad(
    dy: list[Tensor], weights: list[Tensor], uv: Tensor, sigma: Tensor, dims: list[int]
) -> list[Tensor]:
    """The gradient of each weight for the cotangents dy of the scaled weights; sigma is uᵀ W v of these weights.

    dy has the dtype of W / sigma, which may have been rounded; the gradients have that of the weights.
    """
    gradients = []
    vectors = split(uv, weights, dims)
    for i, (g, weight, dim) in enumerate(zip(dy, weights, dims, strict=True)):
        u, v = vectors[i]
        g = g.to(weight.dtype)
        shape = [weight.shape[dim], *(n for d, n in enumerate(weight.shape) if d != dim)]
        outer = torch.outer(u, v).view(shape).movedim(0, dim)
        inner = (g * weight).sum() / sigma[i]
        d = (g - inner * outer) / sigma[i]
        gradients.append(dense(d, memory_format(weight)))
    return gradients
