"""The activation table. The reference, the kernels and the tests read it. A new activation is a row here and its
formulas in the kernels.

value(p, alpha) of the pre-activation p. The derivatives d1, d2, d3 are with respect to the pre-activation (d1) and then
to u, where u is p if `saves` is "input" and value(p) if it is "output". All are differentiable PyTorch expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """One row of the table. code: its number in the kernels (csrc/include/fastgan/bias_act.h)."""

    code: int
    value: Callable[[Tensor, float], Tensor]
    d1: Callable[[Tensor, float], Tensor]
    d2: Callable[[Tensor, float], Tensor] | None = None
    d3: Callable[[Tensor, float], Tensor] | None = None
    saves: str = "output"

    @property
    def piecewise_linear(self) -> bool:
        """Whether the second derivative is zero almost everywhere, so that ops return it as None, not as zeros."""
        return self.d2 is None


def _softplus(p: Tensor, alpha: float) -> Tensor:
    return p.clamp(min=0) + torch.log1p(torch.exp(-p.abs()))


def _silu_derivative(p: Tensor, order: int) -> Tensor:
    # With s = sigmoid(p) and its derivatives s1, s2, s3, the n-th derivative of p·s is n·s(n-1) + p·s(n).
    s = torch.sigmoid(p)
    s1 = s * (1 - s)
    s2 = s1 * (1 - 2 * s)
    if order == 1:
        return s + p * s1
    if order == 2:
        return 2 * s1 + p * s2
    return 3 * s2 + p * (s2 * (1 - 2 * s) - 2 * s1 * s1)


ACTIVATIONS: dict[str, Activation] = {
    # Cloned, because an op must return a new tensor.
    "linear": Activation(0, lambda p, a: p.clone(), lambda u, a: torch.ones_like(u)),
    "relu": Activation(1, lambda p, a: torch.relu(p), lambda u, a: (u > 0).to(u.dtype)),
    "leaky_relu": Activation(
        2,
        lambda p, a: torch.nn.functional.leaky_relu(p, a),
        lambda u, a: torch.where(u > 0, u.new_ones(()), a),
    ),
    "tanh": Activation(
        3,
        lambda p, a: torch.tanh(p),
        lambda u, a: 1 - u * u,
        lambda u, a: -2 * u,
        lambda u, a: torch.full_like(u, -2),
    ),
    "sigmoid": Activation(
        4,
        lambda p, a: torch.sigmoid(p),
        lambda u, a: u * (1 - u),
        lambda u, a: 1 - 2 * u,
        lambda u, a: torch.full_like(u, -2),
    ),
    "silu": Activation(
        5,
        lambda p, a: torch.nn.functional.silu(p),
        lambda p, a: _silu_derivative(p, 1),
        lambda p, a: _silu_derivative(p, 2),
        lambda p, a: _silu_derivative(p, 3),
        saves="input",
    ),
    "softplus": Activation(
        6,
        _softplus,
        lambda u, a: -torch.expm1(-u),
        lambda u, a: torch.exp(-u),
        lambda u, a: -torch.exp(-u),
    ),
    "elu": Activation(
        7,
        lambda p, a: torch.nn.functional.elu(p, a),
        lambda u, a: torch.where(u > 0, u.new_ones(()), u + a),
        lambda u, a: (u <= 0).to(u.dtype),
        lambda u, a: torch.zeros_like(u),
    ),
}
