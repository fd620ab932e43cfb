"""Unrolled GANs: the generator's loss is taken after further discriminator steps, and differentiated through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

#: Adam's state before the first unrolled step: "lr", "betas", and "step", "mean" and "square" for each weight.
AdamState = dict[str, Any]


def adam_state(optimizer: torch.optim.Optimizer) -> AdamState:
    """The state from which the discriminator's optimizer takes its next step."""
    (group,) = optimizer.param_groups
    weights = [weight for weight in group["params"] if weight.requires_grad]
    states = [optimizer.state.get(weight, {}) for weight in weights]
    device = weights[0].device
    return {
        "lr": torch.as_tensor(group["lr"], device=device),
        "betas": tuple(group["betas"]),
        "step": [s["step"] if s else torch.zeros((), device=device) for s in states],
        "mean": [s["exp_avg"] if s else torch.zeros_like(w) for s, w in zip(states, weights, strict=True)],
        "square": [s["exp_avg_sq"] if s else torch.zeros_like(w) for s, w in zip(states, weights, strict=True)],
    }


def look_ahead(
    loss_of: Callable[[Mapping[str, Tensor]], Tensor],
    weights: Mapping[str, Tensor],
    steps: int,
    state: AdamState,
) -> Mapping[str, Tensor]:
    """A discriminator's weights after so many Adam steps, differentiable in whatever its loss depends on.

    Metz et al. 2017 (arXiv:1611.02163, equations 7 to 10). loss_of: the discriminator's loss for given weights.
    weights: by name, each requires a gradient. Adam's eps lies in the root, which has no derivative at 0 otherwise.
    """
    count, mean, square = state["step"], state["mean"], state["square"]
    (first, second), names = state["betas"], list(weights)
    for _ in range(steps):
        values = list(weights.values())
        found = torch.autograd.grad(loss_of(weights), values, create_graph=True, allow_unused=True)
        gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(values, found, strict=True)]
        count = [c + 1 for c in count]
        mean = [first * m + (1 - first) * g for m, g in zip(mean, gradients, strict=True)]
        square = [second * s + (1 - second) * g.square() for s, g in zip(square, gradients, strict=True)]
        moved = [
            w - state["lr"] * (m / (1 - first**c)) / (s / (1 - second**c) + 1e-16).sqrt()
            for w, m, s, c in zip(values, mean, square, count, strict=True)
        ]
        weights = dict(zip(names, moved, strict=True))
    return weights
