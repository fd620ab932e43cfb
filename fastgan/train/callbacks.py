"""Functions of the user that are called at every interval of a run, and the facts that they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from fastgan._util import random as rng
from fastgan.train.config import Config
from fastgan.train.state import TrainState


@dataclass(frozen=True)
class TrainFacts:
    """A run at the end of an interval, to read.

    step: generator steps so far, of `steps`. images: real images so far, of all ranks. seconds: of training. metrics:
    this interval's line of `metrics.jsonl`. diagnoses: names of what the monitor finds. best: step, name and value of
    the best evaluation, or None. generator: the averaged one, in eval mode. out: the run directory, or None. rank: of
    this process.
    """

    step: int
    steps: int
    images: int
    seconds: float
    metrics: Mapping[str, Any]
    diagnoses: tuple[str, ...]
    best: Mapping[str, Any] | None
    generator: nn.Module
    config: Config
    out: Path | None
    rank: int
    _asked: list[str] = field(default_factory=list, repr=False)

    def stop(self, why: str = "a callback asked for it") -> None:
        """Ask the run to end after this interval, as a finished one, with a checkpoint."""
        self._asked.append(why)


#: A function of TrainFacts; what it returns is not used.
Callback = Callable[[TrainFacts], object]


def call(
    callbacks: Sequence[Callback],
    state: TrainState,
    row: Mapping[str, Any],
    diagnoses: Sequence[str],
    best: Mapping[str, Any] | None,
) -> str:
    """Call each callback. Returns why the run is to end, or "". Random numbers are those of before afterwards."""
    if not callbacks:
        return ""
    facts = TrainFacts(
        state.step, state.config.steps, state.images, state.seconds, MappingProxyType(dict(row)), tuple(diagnoses),
        best, state.ema.module, state.config, state.out, state.world.rank,
    )  # fmt: skip
    with rng.preserved(state.device):
        for callback in callbacks:
            callback(facts)
    return facts._asked[0] if facts._asked else ""
