"""Sampling from BigGAN: the truncation trick and standing statistics (arXiv:1809.11096, section 3.1 and appendix C)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastgan.errors import UsageError


def truncated_latents(
    n: int, latent: int, threshold: float, *, generator: torch.Generator | None = None, device: str = "cpu"
) -> Tensor:
    """Latents z float32 [n, latent] from N(0, 1) truncated to [-threshold, threshold]: the truncation trick.

    threshold: > 0; a smaller one raises the quality of each image and lowers their variety. generator: source of random
    numbers; None means PyTorch's global one. Raises UsageError for a threshold <= 0.
    """
    if not threshold > 0:
        raise UsageError(f"threshold: expected a number > 0, got {threshold}")
    z = torch.empty(n, latent, device=device)
    return nn.init.trunc_normal_(z, 0.0, 1.0, -threshold, threshold, generator=generator)


@torch.no_grad()
def standing_statistics(generator: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Replace the running means and variances of a generator's batch norms by their averages over these batches.

    generator: changed in place; its training and eval modes are restored. The running statistics of an averaged
    generator do not match its averaged weights; these do. batches: the generator's arguments, (z,) or (z, y); the paper
    uses 100 batches. Raises UsageError if there is none.
    """
    norms = [layer for layer in generator.modules() if isinstance(layer, _BatchNorm)]
    settings = [(norm.training, norm.momentum) for norm in norms]
    count = 0
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.train()  # only these layers: in training mode spectral norms would update their vectors
            norm.momentum = None  # cumulative average
        for batch in batches:
            generator(*batch)
            count += 1
    finally:
        for norm, (training, momentum) in zip(norms, settings, strict=True):
            norm.train(training)
            norm.momentum = momentum
    if not count:
        raise UsageError("batches: expected at least one batch of latents, got none")
