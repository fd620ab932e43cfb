"""Sampling from BigGAN: fidelity against variety, and statistics that fit (sections 3.1 and C of the paper)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastgan.errors import UsageError


def truncated_latents(
    n: int, latent: int, threshold: float, *, generator: torch.Generator | None = None, device: str = "cpu"
) -> Tensor:
    """z float32 [n, latent] from N(0, 1) without the numbers beyond ±threshold: the truncation trick.

    threshold: > 0; the smaller, the better each image and the less they differ. Raises UsageError.
    """
    if not threshold > 0:
        raise UsageError(f"threshold: expected a number > 0, got {threshold}")
    z = torch.empty(n, latent, device=device)
    return nn.init.trunc_normal_(z, 0.0, 1.0, -threshold, threshold, generator=generator)


@torch.no_grad()
def standing_statistics(generator: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Replace the running means and variances of a generator's batch norms by plain means over these batches.

    generator: an averaged one, say, whose own running statistics lag behind its weights; changed in place, its modes
    stay. batches: (z,) or (z, y) each, as it takes them; the paper takes 100. Raises UsageError where none come.
    """
    norms = [layer for layer in generator.modules() if isinstance(layer, _BatchNorm)]
    before = [(norm.training, norm.momentum) for norm in norms]
    seen = 0
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.train()  # these layers alone: spectral norms would iterate
            norm.momentum = None
        for batch in batches:
            generator(*batch)
            seen += 1
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.train(training)
            norm.momentum = momentum
    if not seen:
        raise UsageError("batches: expected at least one batch of latents, got none")
