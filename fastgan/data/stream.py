"""Batches for training: images stay on the device as bytes and are normalised there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastgan.data.imageset import ImageSet


class BatchStream:
    """An endless iterator of batches [batch, C, H, W], float32 in [-1, 1], each epoch in a fresh order.

    The order is a function of the seed alone: `position`, the number of images given so far, is the whole state. In a
    world of several ranks it counts the images of all: each takes its own `batch` of `batch · world` images.
    """

    def __init__(self, images: ImageSet, batch: int, seed: int, device: torch.device, *, rank: int = 0, world: int = 1):
        # Copied: a memory map would be read from disk again at every batch.
        self._images = torch.from_numpy(np.array(images.images)).to(device)
        self._batch, self._seed = batch, seed
        self._rank, self._world = rank, world
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)
        self.position = 0

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Tensor:
        parts, missing = [], self._batch * self._world
        while missing:
            epoch, start = divmod(self.position, len(self._images))
            part = self._order_of(epoch)[start : start + missing]
            parts.append(part)
            missing -= len(part)
            self.position += len(part)
        own = torch.cat(parts)[self._batch * self._rank : self._batch * (self._rank + 1)]
        return normalise(self._images[own])

    def state_dict(self) -> dict[str, int]:
        """What to save to continue exactly."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was taken."""
        self.position = state["position"]

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            # A seed sequence mixes the two numbers well; adding them would give seed 0's epoch 1 to seed 1.
            (seed,) = np.random.SeedSequence((self._seed, epoch)).generate_state(1, np.uint64)
            source = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
            order = torch.randperm(len(self._images), generator=source)
            self._epoch, self._order = epoch, order.to(self._images.device)
        return self._order


def normalise(pixels: Tensor) -> Tensor:
    """uint8 0..255 → float32 in [-1, 1]: the one place where pixels become network input."""
    return pixels.float().div_(127.5).sub_(1)
