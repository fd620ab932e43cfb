"""Generated images of each class until enough are accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fastgan.augmentation.filter import REASONS, Filter

_BATCH = 100


@dataclass
class Made:
    """Of one class. images: the accepted ones, uint8 [N, C, H, W]. wanted: how many were asked for. drawn: how many
    were looked at. rejected: how many for each reason. examples: a few rejected images."""

    images: np.ndarray
    wanted: int
    drawn: int = 0
    rejected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    examples: list[np.ndarray] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """How many fewer were accepted than asked for."""
        return self.wanted - len(self.images)


def generate(
    draw: Callable[[int, int, int], np.ndarray],
    wanted: Sequence[int],
    images: Filter,
    *,
    tries: int = 10,
    examples: int = 4,
    on_accepted: Callable[[int], None] | None = None,
) -> list[Made]:
    """Draws images of each class until `wanted` are accepted, or `tries` times as many were looked at.

    draw(label, first, n): images first .. first + n − 1 of the endless sequence of a class, uint8 [n, C, H, W]. wanted:
    for each class. The result depends on these alone. on_accepted: called with the number of further accepted images.
    """
    found = []
    for label, count in enumerate(wanted):
        made = Made(draw(label, 0, 1)[:0], count)
        parts: list[np.ndarray] = []
        accepted: Tensor | None = None
        have = 0
        while have < count and made.drawn < tries * count:
            n = min(_BATCH, tries * count - made.drawn)
            candidates = draw(label, made.drawn, n)
            reasons, vectors = images.reasons(candidates, label, accepted)
            good = np.flatnonzero(reasons == "")[: count - have]
            if len(good) == count - have:  # what was drawn behind the last one needed was not looked at
                candidates, reasons = candidates[: good[-1] + 1], reasons[: good[-1] + 1]
            bad = np.flatnonzero(reasons != "")
            made.examples += list(candidates[bad[: examples - len(made.examples)]])
            for reason, number in Counter(reasons[bad]).items():
                made.rejected[reason] += number
            made.drawn += len(candidates)
            parts.append(candidates[good])
            new = vectors[torch.from_numpy(good).to(vectors.device)]
            accepted = new if accepted is None else torch.cat([accepted, new])
            have += len(good)
            if on_accepted is not None:
                on_accepted(len(good))
        if parts:
            made.images = np.ascontiguousarray(np.concatenate(parts))
        found.append(made)
    return found
