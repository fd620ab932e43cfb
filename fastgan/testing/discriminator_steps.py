"""Small discriminators and their training steps, for tests of fastgan.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fastgan.losses.penalties import gradient_penalty
from fastgan.losses.penalties import r1 as r1_penalty


def discriminator() -> nn.Sequential:
    """Two convolutions with leaky ReLUs, for images [N, 3, 16, 16]."""
    layers = [nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 12, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 16, 1))


def sngan_discriminator() -> nn.Sequential:
    """The same with spectral norms."""
    network = discriminator()
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrizations.spectral_norm(layer)
    return network


def wgan_gp(network: nn.Module, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    return network(fake).mean() - network(real).mean() + gradient_penalty(network, real, fake, epsilon=epsilon)


def r1(network: nn.Module, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    return F.softplus(-network(real)).mean() + F.softplus(network(fake)).mean() + r1_penalty(network, real)


def hinge(network: nn.Module, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    return F.relu(1 - network(real)).mean() + F.relu(1 + network(fake)).mean()


#: Loss, discriminator, convolution passes of two layers, and passes over zeros that plain PyTorch adds. A run is 2
#: passes, its backward pass without the images' gradient 1 + 2; a penalty is 2 + 2 and, for its derivative, 2 + 2.
STEPS: dict[str, tuple[Callable[..., Tensor], Callable[[], nn.Module], int, int]] = {
    "wgan-gp": (wgan_gp, discriminator, 18, 3),
    "r1": (r1, discriminator, 18, 3),
    "sngan": (hinge, sngan_discriminator, 10, 0),
}


def draws(n: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Real and fake images and the weights between them."""
    return torch.randn(n, 3, 16, 16, dtype=dtype), torch.randn(n, 3, 16, 16, dtype=dtype), torch.rand(n, 1, 1, 1)


def returning(network: nn.Module, loss: Callable[..., Tensor], precision: str = "fp32") -> Callable[..., Any]:
    """A step that returns the loss and the gradients of all weights."""
    weights = list(network.parameters())

    def step(real: Tensor, fake: Tensor, epsilon: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(network, real, fake, epsilon)
        return value.detach(), torch.autograd.grad(value, weights, allow_unused=True)

    return step


def distance(one: Iterable[Tensor | None], other: Iterable[Tensor | None]) -> float:
    """The relative L2 distance of two lists of gradients."""
    a, b = (torch.cat([g.flatten().double() for g in gradients if g is not None]) for gradients in (one, other))
    return float((a - b).norm() / b.norm())


def by_make_fx(compiled: Any) -> Any:
    """A compiled step that make_fx captures, as on a PyTorch without autograd tracing in Dynamo, without a warning."""

    def refuse() -> None:
        raise RuntimeError("no Dynamo")

    compiled._by_dynamo = refuse
    compiled._warned = True
    return compiled
