"""Batches as the task takes them, and the images that a configuration names."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from fastgan.errors import UsageError
from fastgan.tasks.base import Batch
from fastgan.tasks.batches import on_device
from fastgan.train.state import TrainState

if TYPE_CHECKING:
    from fastgan.data import ImageSet
    from fastgan.train.config import Config

_logger = logging.getLogger(__name__)


class Batches(Iterator[Batch]):
    """The user's batches, collated by the task, on the device, in the size of growing networks and the memory format.

    raw: the last batch before it was averaged down for networks that grow.
    """

    def __init__(self, given: Iterable[Any], state: TrainState):
        self._given, self._state = iter(given), state
        self._next: Batch | None = None
        self.raw: Batch = {}

    def peek(self) -> Batch:
        """The batch that comes next."""
        if self._next is None:
            self._next = self._read()
        return self._next

    def __next__(self) -> Batch:
        batch, self._next = self.peek(), None
        return in_channels_last(batch) if self._state.channels_last else batch

    def _read(self) -> Batch:
        state = self._state
        try:
            given = next(self._given)
        except StopIteration:
            raise UsageError(
                f"batches: ended after {state.step} of {state.config.steps} steps; give an endless iterator"
                " (itertools.cycle, or a generator that loops over the data)"
            ) from None
        real = state.task.real
        self.raw = on_device(state.task.collate(given), state.device)
        batch = self.raw | {real: state.growth.averaged(self.raw[real])}
        if state.world.size > 1 and state.batch and len(batch[real]) != len(state.batch[real]):
            # The mean of the ranks' means is the batch's only where all are of one size.
            raise UsageError(
                f"batches: expected {len(state.batch[real])} images each time on several ranks, got"
                f" {len(batch[real])}; leave the rest of an epoch out (drop_last=True)"
            )
        return batch


def in_channels_last(batch: Batch) -> Batch:
    """A batch whose images are in channels_last. Entries that share one tensor still share one."""
    converted = {id(t): t.contiguous(memory_format=torch.channels_last) for t in batch.values() if t.dim() == 4}
    return {name: converted.get(id(t), t) for name, t in batch.items()}


def open_images(config: Config) -> tuple[ImageSet, Config]:
    """The images that a configuration names, and the configuration with the number of classes that they have."""
    from fastgan.data import open_source
    from fastgan.data.stream import labels_of

    images = open_source(config.data.source, resolution=config.data.resolution, channels=config.data.channels)
    if config.model.condition == "none":
        return images, config
    labels = labels_of(images)
    model = dataclasses.replace(config.model, classes=config.model.classes or images.num_classes)
    if labels.max() >= (model.classes or 0):
        raise UsageError(
            f"classes: expected a number above the labels of {images.name}, which go up to {labels.max()}, got"
            f" {model.classes}"
        )
    return images, dataclasses.replace(config, model=model)
