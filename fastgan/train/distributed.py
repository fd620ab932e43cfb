"""Several processes that train as one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among all. One process alone is a world of size 1, in which everything here does nothing."""

    rank: int = 0
    size: int = 1

    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all ranks."""
