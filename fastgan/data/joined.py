"""Batches of several sets of images at once: of pairs, or of two sets that have nothing to do with each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.data.imageset import ImageSet
from fastgan.data.stream import BatchStream
from fastgan.errors import DataError


class JoinedStream:
    """An endless iterator of {"NAME": float32 [batch, C, H, W] in [-1, 1], ...}, an entry for each set.

    aligned: images of the same number in each set belong together, and come together; else each set has an order of its
    own. The other arguments are those of `BatchStream`, whose order it has; `held_out` is a dictionary too.
    """

    def __init__(
        self, sets: Mapping[str, ImageSet], batch: int, seed: int, device: torch.device, *, aligned: bool = True,
        rank: int = 0, world: int = 1, held_out: int = 0,
    ):  # fmt: skip
        self._streams: dict[str, BatchStream] = {}
        for i, (name, images) in enumerate(sets.items()):
            # With the same seed two sets of the same number of images would be in the same order.
            own = seed if aligned else int(np.random.SeedSequence((seed, i)).generate_state(1)[0])
            self._streams[name] = BatchStream(
                images, batch, own, device, rank=rank, world=world, held_out=held_out, share=0.25 / len(sets),
            )  # fmt: skip
        self.held_out = {name: stream.held_out for name, stream in self._streams.items()}

    @property
    def where(self) -> str:
        """Where the images of each set are stored."""
        return ", ".join(f"{name}: {stream.where}" for name, stream in self._streams.items())

    def __iter__(self) -> JoinedStream:
        return self

    def __next__(self) -> dict[str, Tensor]:
        return {name: next(stream) for name, stream in self._streams.items()}  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint; it can be loaded with another number of ranks."""
        return {name: stream.state_dict() for name, stream in self._streams.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was called. Raises DataError for a state of other sets."""
        if not isinstance(state, dict) or state.keys() != self._streams.keys():
            found = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
            raise DataError(
                f"the state belongs to another data loader: expected sets {', '.join(self._streams)}, got {found}"
            )
        for name, stream in self._streams.items():
            stream.load_state_dict(state[name])


class PartnerStream:
    """An endless iterator of {"real": images, "labels": int64 [batch], "source": other images of the same classes}.

    The arguments are those of `BatchStream`, whose order `real` has; `held_out` is such a dictionary too.
    """

    def __init__(self, images: ImageSet, batch: int, seed: int, device: torch.device, **options: Any):
        self._real = BatchStream(images, batch, seed, device, labels=True, **options)
        self._partners = BatchStream(images, batch, seed, device, labels=True, partners=True, **options)
        self._partners._images = self._real._images  # not twice in memory
        self.held_out = self._joined(self._real.held_out, self._partners.held_out)

    @staticmethod
    def _joined(real: Any, partners: Any) -> dict[str, Tensor]:
        return {"real": real[0], "labels": real[1], "source": partners[0]}

    @property
    def where(self) -> str:
        """Where the images are stored."""
        return self._real.where

    def __iter__(self) -> PartnerStream:
        return self

    def __next__(self) -> dict[str, Tensor]:
        return self._joined(next(self._real), next(self._partners))

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint; it can be loaded with another number of ranks."""
        return self._real.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was called. Raises DataError for a state of other images."""
        self._real.load_state_dict(state)
        self._partners.load_state_dict(state)
