"""What the studies on points share: mixtures of Gaussians, networks for points, how modes are counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastgan

LATENT = 2


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one deviation and equal weights around centers [M, 2]."""

    name: str
    centers: Tensor
    deviation: float

    def batches(self, size: int, seed: int) -> Iterator[Tensor]:
        """Endless batches of points [size, 2]."""
        source = torch.Generator().manual_seed(seed)
        while True:
            which = torch.randint(len(self.centers), (size,), generator=source)
            yield self.centers[which] + self.deviation * torch.randn(size, 2, generator=source)

    def found(self, points: Tensor) -> tuple[int, float]:
        """How many modes have a sample, and the share of samples [N, 2] within three deviations of a center.

        Both as Srivastava et al. 2017 (arXiv:1705.07761) and Lin et al. 2018 (arXiv:1712.04086) count them.
        """
        distance, nearest = torch.cdist(points, self.centers).min(1)
        good = distance < 3 * self.deviation
        return len(nearest[good].unique()), float(good.float().mean())


_ANGLES = torch.arange(8) * (2 * math.pi / 8)
#: The two sets of those papers; the grid's is a quarter of theirs in size, so that it lies in [-1, 1].
RING = Mixture("ring", torch.stack([_ANGLES.cos(), _ANGLES.sin()], 1), 0.01)
GRID = Mixture("grid", torch.cartesian_prod(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5)), 0.0125)


def generator(width: int = 128) -> nn.Module:
    """z [N, 2] → points [N, 2]. With two latents few of the samples lie between two modes."""
    return _network(LATENT, width, 2, nn.ReLU)


def discriminator(width: int = 128, pack: int = 1) -> nn.Module:
    """Points [N, 2·pack] → logits [N, 1]."""
    return _network(2 * pack, width, 1, lambda: nn.LeakyReLU(0.2))


def _network(inputs: int, width: int, outputs: int, activation: Callable[[], nn.Module]) -> nn.Module:
    hidden = [layer for size in (inputs, width, width) for layer in (nn.Linear(size, width), activation())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def trained(mixture: Mixture, *, loss: str, batch: int, seed: int = 0, pack: int = 1, **flags: Any) -> fastgan.Trainer:
    """A generator and a discriminator trained on a mixture. flags: more flags of `fastgan train`."""
    torch.manual_seed(seed)
    config = fastgan.Config.from_flags(loss=loss, batch=batch, seed=seed, pack=pack, **flags)
    trainer = fastgan.Trainer(generator(), discriminator(pack=pack), loss, config)
    trainer.fit(mixture.batches(batch, seed))
    return trainer


def samples(trainer: fastgan.Trainer, count: int = 2500) -> Tensor:
    """Points [count, 2] of the averaged generator."""
    z = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return trainer.ema.module(z)
