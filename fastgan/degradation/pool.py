"""A pool of earlier pairs, from which batches are mixed: the images of a batch share the size they are resized to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgan._util.random import Random
from fastgan.errors import UsageError


class PairPool:
    """Pairs of low- and high-resolution images of earlier batches, as Real-ESRGAN's training pair pool.

    size: how many pairs, rounded down to whole batches of all ranks together (180 in Real-ESRGAN); 0 for no pool. mean:
    replaces tensors by their means over all ranks, in runs on several. The first batches fill the pool and are returned
    as they are. From then on each image of a batch changes places with one that came at the same position of an
    earlier batch, chosen at random. All ranks hold all pairs, so that several see what one does with a batch as large,
    and a run goes on exactly on any number of them. Where batches change their size, the pool begins anew.
    Raises UsageError for a negative size.
    """

    def __init__(self, size: int, mean: Callable[[list[Tensor]], None] = lambda tensors: None):
        if size < 0:
            raise UsageError(f"pool: expected a number of pairs >= 0, got {size}")
        self._size, self._mean = size, mean
        self._kept: dict[str, Tensor] = {}
        self._filled = 0

    def exchange(self, batch: dict[str, Tensor], random: Random) -> dict[str, Tensor]:
        """A batch of the same shapes, of this and earlier ones.

        batch: tensors [N, ...] by name, such as "source" and "target", of which row i of each belong together.
        """
        rank, ranks = random.place
        n = len(next(iter(batch.values())))
        batches, own = self._size // (n * ranks), slice(n * rank, n * (rank + 1))
        if not batches:
            return batch
        every = {name: self._of_all_ranks(value, rank, ranks) for name, value in batch.items()}
        shapes = {name: (batches, *value.shape) for name, value in every.items()}
        if {name: tuple(kept.shape) for name, kept in self._kept.items()} != shapes:
            self._kept = {name: value.new_zeros(shapes[name]) for name, value in every.items()}
            self._filled = 0
        if self._filled < batches:
            for name, value in every.items():
                self._kept[name][self._filled] = value
            self._filled += 1
            return batch
        u = random.uniform_of_all(n)
        # float32 below 1 times a whole number may round up to it.
        which, row = (u * batches).long().clamp(max=batches - 1), torch.arange(n * ranks, device=u.device)
        mixed = {name: kept[which[own], row[own]] for name, kept in self._kept.items()}
        for name, value in every.items():
            self._kept[name][which, row] = value
        return mixed

    def _of_all_ranks(self, value: Tensor, rank: int, ranks: int) -> Tensor:
        """[N, ...] of each rank as [N · ranks, ...]."""
        if ranks == 1:
            return value
        every = value.new_zeros((ranks, *value.shape))
        every[rank] = value
        self._mean([every])
        return every.mul_(ranks).flatten(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {**self._kept, "filled": torch.tensor(self._filled)} if self._kept else {}

    def load_tensors(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """The inverse of `tensors`, onto a device."""
        self._kept = {name: value.to(device) for name, value in tensors.items() if name != "filled"}
        self._filled = int(tensors.get("filled", 0))
