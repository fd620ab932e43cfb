"""The modes in which the benchmark times an op."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgan.testing.case import Inputs, OpCase, cotangent

MODES = ("forward", "backward", "forward+backward", "penalty")


def step(function: Callable[..., Tensor], inputs: Inputs, mode: str) -> Callable[[], object]:
    """A function without arguments that runs the op once in that mode.

    backward is the backward pass alone, over a graph that is kept. penalty is the gradient, its squared norm, and the
    gradient of that: the double backward of a discriminator.
    """
    y = function(*inputs)
    dy = cotangent(y)
    if mode == "forward":
        return lambda: function(*inputs)
    if mode == "backward":
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)
    if mode == "forward+backward":
        return lambda: torch.autograd.grad(function(*inputs), inputs, dy)
    if mode == "penalty":
        # dy requires a gradient, as it does in a network, so that a second-order gradient always exists.
        dy.requires_grad_()

        def penalty() -> object:
            gradient = torch.autograd.grad(function(*inputs), inputs[0], dy, create_graph=True)[0]
            return torch.autograd.grad(gradient.square().sum(), (dy, *inputs), allow_unused=True)

        return penalty
    raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")


def least_bytes(case: OpCase, inputs: Inputs, mode: str) -> int | None:
    """The least bytes of memory traffic in that mode; None if the case does not give them."""
    cost = case.cost(inputs)
    parts = mode.split("+")
    return sum(cost[part].bytes for part in parts) if all(part in cost for part in parts) else None
