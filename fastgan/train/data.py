"""Batches as the task takes them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fastgan.errors import UsageError
from fastgan.nn import MinibatchStdDev
from fastgan.tasks import Generation, Task
from fastgan.tasks.base import Batch
from fastgan.tasks.batches import described, on_device
from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)

#: Batches in a row that are left out because no step can take them.
_LEFT_OUT = 3
_NORMS = nn.modules.batchnorm._BatchNorm


class Batches(Iterator[Batch]):
    """The user's batches, collated by the task, on the device, in the size of growing networks and the memory format.

    given: iterated again at its end, so that a data loader shuffles anew; an iterator has to be endless. raw: the last
    batch before it was averaged down for networks that grow.
    """

    def __init__(self, given: Iterable[Any], state: TrainState):
        check_iterable(given)
        self._given, self._state = given, state
        self._rest = iter(given)
        self._next: Batch | None = None
        self._size, self._trimmed = 0, False
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
        real = state.task.real
        for attempt in itertools.count():
            raw = state.task.collate(self._given_next())
            whole = len(raw[real])
            # Only the last batch of an epoch, which is smaller than those before.
            usable = usable_size(state.task, whole) if whole < self._size else whole
            if usable < whole and not self._trimmed:
                self._trimmed = True
                _logger.info(
                    "batches: of the last %d images of an epoch %d are used (%s); drop_last=True leaves such batches"
                    " out", whole, usable, _why_trimmed(state.task),
                )  # fmt: skip
            if usable:
                break
            if attempt == _LEFT_OUT:
                raise UsageError(f"batches: expected more than {whole} images in a batch ({_why_trimmed(state.task)})")
        if usable < whole:
            raw = {name: value[:usable] for name, value in raw.items()}
        self._size = usable
        self.raw = state.task.transform(on_device(raw, state.device), state.random)
        batch = self.raw | {real: state.growth.averaged(self.raw[real])}
        if state.world.size > 1 and state.batch and len(batch[real]) != len(state.batch[real]):
            # The mean of the ranks' means is the batch's only where all are of one size.
            raise UsageError(
                f"batches: expected {len(state.batch[real])} images each time on several ranks, got"
                f" {len(batch[real])}; leave the rest of an epoch out (drop_last=True)"
            )
        return batch

    def _given_next(self) -> Any:
        """What the user's batches give next, from their beginning where they have ended."""
        for _ in range(2):
            for given in self._rest:
                return given
            self._rest = iter(self._given)
            if self._rest is self._given:
                state = self._state
                raise UsageError(
                    f"batches: ended after {state.step} of {state.config.steps} steps; give what can be iterated again,"
                    " such as a torch.utils.data.DataLoader, or an endless iterator (itertools.cycle, or a generator"
                    " that loops over the data)"
                )
        raise UsageError("batches: expected at least one batch, got none")


def check_iterable(batches: Any) -> None:
    """Raise UsageError for what cannot be iterated batch by batch: a single tensor or dictionary, a data set."""
    loader = "torch.utils.data.DataLoader"
    if isinstance(batches, torch.utils.data.Dataset) and not isinstance(batches, torch.utils.data.IterableDataset):
        raise UsageError(
            f"batches: expected an iterable of batches, got the data set {type(batches).__name__} of single images;"
            f" give {loader}(dataset, batch_size=64, shuffle=True)"
        )
    if isinstance(batches, torch.Tensor | Mapping | str) or not hasattr(batches, "__iter__"):
        tensors = f"; {loader}(images, batch_size=64, shuffle=True) makes batches of a tensor" * isinstance(
            batches, torch.Tensor
        )
        raise UsageError(f"batches: expected an iterable of batches, got {described(batches)}{tensors}")


def usable_size(task: Task, size: int) -> int:
    """The most images out of so many that a step can take: whole packs, and groups of the layers that compare.

    A task of one's own takes what comes.
    """
    if not isinstance(task, Generation):
        return size
    pack = task.regularization.config.pack
    layers = list(task.discriminator.modules())
    least = 2 * pack if any(isinstance(layer, _NORMS) for layer in layers) else pack
    if any(isinstance(layer, _NORMS) for layer in task.generator.modules()):
        least = max(least, 2)
    groups = [layer.group for layer in layers if isinstance(layer, MinibatchStdDev)]

    def fits(n: int) -> bool:
        packs = n // pack
        return n % pack == 0 and all(packs % min(group, packs) == 0 for group in groups)

    return next((n for n in range(size, least - 1, -1) if fits(n)), 0)


def _why_trimmed(task: Task) -> str:
    pack = task.regularization.config.pack if isinstance(task, Generation) else 1
    return f"pack is {pack}" if pack > 1 else "layers that compare the samples of a batch need more"


def in_channels_last(batch: Batch) -> Batch:
    """A batch whose images are in channels_last. Entries that share one tensor still share one."""
    converted = {id(t): t.contiguous(memory_format=torch.channels_last) for t in batch.values() if t.dim() == 4}
    return {name: converted.get(id(t), t) for name, t in batch.items()}
