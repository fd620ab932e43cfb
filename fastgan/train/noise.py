"""Where a run's random numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fastgan.train.distributed import World


class Noise:
    """Draws for both players on their device.

    All ranks draw the same numbers for the whole world's batch and each takes its own part: two ranks of batch N see
    what one rank of batch 2N sees, and a run goes on in another world.
    """

    def __init__(self, seed: int, latent_shape: tuple[int, ...], device: torch.device, world: World):
        self.random = torch.Generator(device).manual_seed(seed)
        self.latent_shape, self._world = latent_shape, world

    def latents(self, n: int) -> Tensor:
        """z [n, *latent_shape] from N(0, 1)."""
        return self._own(torch.randn, n, self.latent_shape)

    def epsilon(self, n: int, dims: int) -> Tensor:
        """Uniform in [0, 1), [n, 1, ...] of so many dimensions: a place between each real and fake image."""
        return self._own(torch.rand, n, (1,) * (dims - 1))

    def labels(self, n: int, classes: int) -> Tensor:
        """y int64 [n], each class as likely as any other."""
        return self._own(lambda *shape, **where: torch.randint(classes, shape, **where), n, ())

    def uniform(self, n: int, numbers: int) -> Tensor:
        """Uniform in [0, 1), [n, numbers]."""
        return self._own(torch.rand, n, (numbers,))

    def normal(self, shape: torch.Size) -> Tensor:
        """N(0, 1), of that shape."""
        return self._own(torch.randn, shape[0], shape[1:])

    def places(self, n: int, among: int) -> Tensor:
        """n different numbers below `among`, int64 [n]."""
        return torch.randperm(among, device=self.random.device, generator=self.random)[:n]

    @contextmanager
    def undone(self) -> Iterator[None]:
        """What is drawn inside is drawn again afterwards."""
        before = self.random.get_state()
        try:
            yield
        finally:
            self.random.set_state(before)

    def _own(self, draw: Callable[..., Tensor], n: int, shape: tuple[int, ...]) -> Tensor:
        every = draw(n * self._world.size, *shape, device=self.random.device, generator=self.random)
        return every[n * self._world.rank : n * (self._world.rank + 1)]
