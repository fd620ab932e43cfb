"""Batches for tests of whole runs."""

from __future__ import annotations

from typing import Any

import torch


class Resumable:
    """An endless, reproducible stream of batches whose position can be restored. Subclasses define `batch`."""

    def __init__(self) -> None:
        self.at = 0

    def batch(self, source: torch.Generator) -> Any:
        """A batch, drawn from a generator that is seeded with the number of the batch."""
        raise NotImplementedError

    def __iter__(self) -> Resumable:
        return self

    def __next__(self) -> Any:
        self.at += 1
        return self.batch(torch.Generator().manual_seed(self.at))

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]
