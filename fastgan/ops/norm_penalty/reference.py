"""Specification of norm_penalty and its gradients, in plain PyTorch.

For each sample g_n of g [N, *], with sums in float32 (float64 for double):

    norm_penalty  size = ‖g_n‖; value = (size − target)², or size² without a target; slope such that the gradient of
                  value is slope · g_n: 2 (size − target) / size, and 0 where size is 0 (as the norm's subgradient);
                  without a target 2
    sample_scale  a_n · c_n, rounded to a's dtype
    sample_dot    ⟨a_n, b_n⟩

The last two are each other's derivatives. Results [N] are in the accumulation dtype; the scaled tensor is dense, in the
layout that `memory_format` chooses from a.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for double, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def norm_penalty(g: Tensor, target: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """g [N, *] → value, slope, size, each [N]."""
    square = sample_dot(g, g)
    size = square.sqrt()
    if target is None:
        return square, torch.full_like(size, 2), size
    slope = torch.where(size == 0, 0.0, 2 * (size - target) / size)
    return (size - target).square(), slope, size


def sample_scale(a: Tensor, c: Tensor) -> Tensor:
    """a [N, *], c [N] in the accumulation dtype → like a."""
    wide = a.to(c.dtype) * c.view(-1, *[1] * (a.dim() - 1))
    return dense(wide.to(a.dtype), memory_format(a))


def sample_dot(a: Tensor, b: Tensor) -> Tensor:
    """a, b [N, *] → [N]."""
    wide = accumulation_dtype(a.dtype)
    return (a.to(wide) * b.to(wide)).flatten(1).sum(1)
