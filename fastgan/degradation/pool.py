"""A pool of earlier pairs, from which batches are mixed: the images of a batch share the size they are resized to."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util.random import Random
from fastgan.errors import UsageError


class PairPool:
    """Pairs of low- and high-resolution images of earlier batches, as Real-ESRGAN's training pair pool.

    size: how many pairs, those of all ranks together, rounded to whole batches (180 in Real-ESRGAN); 0 for no pool.
    The first batches fill it and are returned as they are. From then on each image of a batch changes places with one
    that came at the same position of an earlier batch, chosen at random, so that several ranks see what one does with
    a batch as large. Each rank holds its own pairs. A checkpoint has those of the first rank, with which the others go
    on too; where batches have another size then, the pool begins anew.
    """

    def __init__(self, size: int):
        if size < 0:
            raise UsageError(f"size: expected a number >= 0, got {size}")
        self._size = size
        self._kept: dict[str, Tensor] = {}
        self._filled = 0

    def exchange(self, batch: dict[str, Tensor], random: Random) -> dict[str, Tensor]:
        """A batch of the same shapes, of this and earlier ones.

        batch: tensors [N, ...] by name, such as "source" and "target", of which row i of each belong together.
        """
        n = len(next(iter(batch.values())))
        batches = self._size // (n * random.place[1])
        if not batches:
            return batch
        shapes = {name: (batches, *value.shape) for name, value in batch.items()}
        if {name: tuple(kept.shape) for name, kept in self._kept.items()} != shapes:
            self._kept = {name: value.new_zeros(shapes[name]) for name, value in batch.items()}
            self._filled = 0
        if self._filled < batches:
            for name, value in batch.items():
                self._kept[name][self._filled] = value
            self._filled += 1
            return batch
        u = random.uniform(n)
        # float32 below 1 times a whole number may round up to it.
        which, row = (u * batches).long().clamp(max=batches - 1), torch.arange(n, device=u.device)
        mixed = {name: kept[which, row] for name, kept in self._kept.items()}
        for name, value in batch.items():
            self._kept[name][which, row] = value
        return mixed

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {**self._kept, "filled": torch.tensor(self._filled)} if self._kept else {}

    def load_tensors(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """The inverse of `tensors`, onto a device."""
        self._kept = {name: value.to(device) for name, value in tensors.items() if name != "filled"}
        self._filled = int(tensors.get("filled", 0))
