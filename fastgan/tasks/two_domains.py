"""What tasks share that learn from images of two domains in no order: batches, crops, and fakes that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fastgan._util.random import Random
from fastgan.tasks.base import Batch, Loss, Task
from fastgan.tasks.batches import two_domains
from fastgan.tasks.image_pool import ImagePools
from fastgan.tasks.networks import dtype_of
from fastgan.tasks.terms import randomly_cropped


class TwoDomains(Task):
    """Batches are {"a": [N, C, H, W], "b": [N, C', H, W]}, float in [-1, 1].

    A subclass sets channels, of both domains; crop and flip, as `randomly_cropped` takes them; and pools, of fakes.
    """

    real = "b"
    data = "unpaired"
    channels: Mapping[str, int]
    crop: int
    flip: bool
    pools: ImagePools

    def collate(self, batch: Any, name: str = "batches") -> Batch:
        return two_domains(batch, dict(self.channels), name, dtype_of(self.generator))

    def transform(self, batch: Batch, random: Random | None) -> Batch:
        return {name: randomly_cropped(images, self.crop, random, self.flip) for name, images in batch.items()}

    def update_after_generator(self, losses: Sequence[Loss]) -> None:
        self.pools.exchange([loss.outputs for loss in losses])

    def tensors(self) -> dict[str, Tensor]:
        return self.pools.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.pools.load_tensors(tensors, next(self.generator.parameters()).device)
