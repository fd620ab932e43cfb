"""The players' optimizers, by name. Each obeys `grad_scale` and `found_inf`, as PyTorch's fused ones do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.train.config import Config


def optimizer_of(config: Config, weights: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """The optimizer that a settled configuration names."""
    if config.optimizer == "rmsprop":
        return RMSprop(weights, lr)
    assert config.beta1 is not None
    assert config.beta2 is not None
    weights = list(weights)
    # Else PyTorch refuses to record its step in a CUDA graph.
    capturable = all(weight.is_cuda for weight in weights)
    return torch.optim.Adam(weights, lr, (config.beta1, config.beta2), fused=True, capturable=capturable)


class RMSprop(torch.optim.Optimizer):
    """w − lr · g / (√v + eps), v the running mean of g²: Hinton 2012, lecture 6e; torch.optim.RMSprop without momentum.

    PyTorch's has no fused kernel, and so knows neither of the tensors by which nothing waits for the device: grad_scale
    divides the gradients, and where found_inf is 1 nothing changes.
    """

    grad_scale: Tensor
    found_inf: Tensor

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, alpha: float = 0.99, eps: float = 1e-8):
        super().__init__(weights, {"lr": lr, "alpha": alpha, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        bad = self.found_inf.bool()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["square_avg"] = torch.zeros_like(weight)
                gradient = weight.grad / self.grad_scale.to(weight.dtype)
                mean = state["square_avg"].lerp(gradient.square(), 1 - group["alpha"])
                change = gradient / (mean.sqrt() + group["eps"])
                state["square_avg"].copy_(torch.where(bad, state["square_avg"], mean))
                weight.sub_(torch.where(bad, 0.0, change), alpha=group["lr"])
