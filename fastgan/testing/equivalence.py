"""Compares two networks: outputs, gradients, and gradients of a gradient penalty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def outputs_and_gradients(network: nn.Module, x: Tensor) -> list[Tensor | None]:
    """Output, gradients of input and parameters, a gradient penalty and its gradients; None for missing gradients."""
    x = x.detach().requires_grad_()
    parameters = [p for p in network.parameters() if p.requires_grad]
    y = network(x)
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view(y.shape)
    first = torch.autograd.grad((y * weights).sum(), [x, *parameters], create_graph=True, allow_unused=True)
    penalty = (first[0].flatten(1).norm(dim=1) - 1).square().mean()
    second = torch.autograd.grad(penalty, parameters, allow_unused=True)
    return [y, *first, penalty, *second]


def assert_same(
    got: Sequence[Tensor | None], want: Sequence[Tensor | None], rtol: float = 1e-10, atol: float = 1e-12
) -> None:
    """Raises AssertionError unless equal. None equals zeros, since PyTorch returns zeros for some missing gradients."""
    __tracebackhide__ = True
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        a, b = (None if t is not None and not t.any() else t for t in (a, b))
        assert (a is None) == (b is None), f"quantity {i}: {a} and {b}"
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=f"quantity {i}: {a} and {b}")
