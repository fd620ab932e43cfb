"""The pictures that a run leaves while it goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.report.picture import save_grid

COUNT = 64


def latents(seed: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """z [64, *shape] of a panel, on the CPU.

    From a generator of its own for each panel: drawing pictures must not change what is trained.
    """
    (mixed,) = np.random.SeedSequence((seed, step, COUNT)).generate_state(1, np.uint64)
    source = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
    return torch.randn(COUNT, *shape, generator=source)


@torch.no_grad()
def sample(generator: nn.Module, z: Tensor, device: torch.device) -> np.ndarray:
    """Images of a generator for z [N, *latent_shape], as float32 [N, C, H, W]; a conditional one's class by class."""
    classes = getattr(generator, "classes", 0)
    y = (torch.arange(len(z), device=device) % classes,) if classes else ()
    return generator(z.to(device), *y).float().cpu().numpy()


def save_both(
    run: Path, generator: nn.Module, seed: int, step: int, shape: tuple[int, ...], device: torch.device
) -> None:
    """The panel of always the same latents, and one of fresh ones."""
    for kind, of in (("fixed", 0), ("fresh", step)):
        save(sample(generator, latents(seed, of, shape), device), run / "samples" / f"{kind}-{step:08d}.png")


def save(images: np.ndarray, path: Path) -> None:
    """A grid of [N, C, H, W], where these are pictures."""
    if images.ndim == 4 and images.shape[1] in (1, 3):
        save_grid(images[:COUNT], path, scale=max(1, 64 // images.shape[-1]))
