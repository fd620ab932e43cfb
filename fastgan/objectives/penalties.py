"""Penalties on the critic's gradient with respect to its input. Exact, differentiable, scalar."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgan.errors import UsageError

Critic = Callable[[Tensor], Tensor]


def gradient_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    *,
    target: float = 1.0,
    weight: float = 10.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """weight · E (‖∇ D(x̂)‖ − target)² on points x̂ between real and fake images: WGAN-GP (arXiv:1704.00028, equation 3).

    real, fake: [N, ...] of one shape, taken as constants. generator: source of the N interpolation weights, on real's
    device. Returns a scalar in float32 (float64 for double inputs).
    """
    if real.shape != fake.shape:
        raise UsageError(f"fake: expected the shape of real {list(real.shape)}, got {list(fake.shape)}")
    shape = [len(real)] + [1] * (real.dim() - 1)
    mix = torch.rand(shape, dtype=real.dtype, device=real.device, generator=generator)
    points = torch.lerp(real.detach(), fake.detach(), mix)
    return weight * (_squared_norms(critic, points).sqrt() - target).square().mean()


def r1(critic: Critic, real: Tensor, *, weight: float = 1.0) -> Tensor:
    """weight/2 · E ‖∇ D(x)‖² on real images: Mescheder et al. 2018 (arXiv:1801.04406, equation 9).

    real: [N, ...], taken as constant. Returns a scalar in float32 (float64 for double inputs).
    """
    return 0.5 * weight * _squared_norms(critic, real).mean()


def _squared_norms(critic: Critic, points: Tensor) -> Tensor:
    """‖∇ D‖² for each sample, [N]. Squares are summed in float32 at least: in half precision they would overflow."""
    points = points.detach().requires_grad_()
    logits = critic(points)
    (gradient,) = torch.autograd.grad(logits.sum(), points, create_graph=True)
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    # The tiny number keeps the square root's derivative finite where a gradient vanishes.
    return wide.square().flatten(1).sum(1) + 1e-20
