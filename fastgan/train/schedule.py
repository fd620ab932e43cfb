"""Learning rates over a run: a linear warm-up, then constant, or lowered linearly or along a cosine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastgan.train.config import OptimConfig

SCHEDULES = ("constant", "linear", "cosine")


def factor(optim: OptimConfig, step: int, steps: int) -> float:
    """The learning rates of the update that follows `step` updates, as a part of the configured ones.

    steps: of the whole run. The last update of a linear or cosine schedule has the lowest rate, which is above 0.
    """
    if step < optim.lr_warmup:
        return (step + 1) / (optim.lr_warmup + 1)
    begin = max(optim.lr_warmup, round(optim.lr_decay_from * steps))
    if optim.lr_schedule == "constant" or step <= begin:
        return 1.0
    done = min((step - begin) / (steps - begin), 1.0)
    return 1.0 - done if optim.lr_schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
