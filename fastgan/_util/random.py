"""Random numbers of a training run, the same for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Random:
    """Draws on a device from a generator of its own.

    All ranks draw the same numbers for the batches of all ranks, and each takes its own part: two ranks of batch N see
    what one rank of batch 2N sees, and a run can be resumed on another number of ranks.
    """

    def __init__(self, seed: int, device: torch.device, rank: int = 0, ranks: int = 1):
        self.generator = torch.Generator(device).manual_seed(seed)
        self._rank, self._ranks = rank, ranks

    def normal(self, n: int, *shape: int) -> Tensor:
        """N(0, 1), float32 [n, *shape]."""
        return self._own(torch.randn, n, shape)

    def uniform(self, n: int, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 [n, *shape]."""
        return self._own(torch.rand, n, shape)

    def labels(self, n: int, classes: int) -> Tensor:
        """Uniform class labels, int64 [n]."""
        return self._own(lambda *shape, **where: torch.randint(classes, shape, **where), n, ())

    def choice(self, n: int, among: int) -> Tensor:
        """n different numbers below `among`, int64 [n]; the same on all ranks."""
        return torch.randperm(among, device=self.generator.device, generator=self.generator)[:n]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """What is drawn inside is drawn again afterwards."""
        before = self.generator.get_state()
        try:
            yield
        finally:
            self.generator.set_state(before)

    def _own(self, draw: Callable[..., Tensor], n: int, shape: tuple[int, ...]) -> Tensor:
        every = draw(n * self._ranks, *shape, device=self.generator.device, generator=self.generator)
        return every[n * self._rank : n * (self._rank + 1)]
