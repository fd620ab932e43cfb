"""Single iterations of a Trainer, outside of `fit`, for the benchmarks that time them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastgan import Trainer
from fastgan.train.data import Batches
from fastgan.train.logging import Means


class Iterations:
    """Each call is one iteration. How steps are computed is decided before, as in `fit`."""

    def __init__(self, trainer: Trainer, batches: Iterable[Any]):
        self.trainer, self.batches, self.means = trainer, Batches(batches, trainer.state), Means()
        trainer.prepare(self.batches)

    def __call__(self) -> None:
        self.trainer.iterate(self.batches, self.means)
