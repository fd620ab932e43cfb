"""Adaptive discriminator augmentation: as much as keeps the discriminator from overfitting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Adaptive:
    """The controller of Karras et al. 2020 (arXiv:2006.06676, section 3.1).

    p: the probability of each augmentation, a scalar on the device, from 0 to 1. It rises while the mean sign of real
    logits r_t is above the target, and falls below, so fast that it goes from 0 to 1 in `images` images. interval:
    batches between two adjustments (paper: 4).
    """

    def __init__(
        self, target: float, images: int, interval: int, device: torch.device, mean: Callable[[list[Tensor]], None]
    ):
        self.p = torch.zeros((), device=device)
        self._signs = torch.zeros((), device=device)
        self._seen = torch.zeros((), device=device)
        self._target, self._images, self._interval, self._mean = target, images, interval, mean
        self._batches = 0

    def update(self, sign: Tensor, images: int) -> None:
        """Add the mean sign of one batch's real logits; images: how many all ranks together saw."""
        self._signs += sign
        self._seen += images
        self._batches += 1
        if self._batches % self._interval == 0:
            mean = self._signs / self._interval
            self._mean([mean])
            self.p.add_((mean - self._target).sign() * self._seen / self._images).clamp_(0, 1)
            self._signs.zero_()
            self._seen.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        batches = torch.tensor(self._batches % self._interval)
        return {"p": self.p, "signs": self._signs, "seen": self._seen, "batches": batches}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for mine, name in ((self.p, "p"), (self._signs, "signs"), (self._seen, "seen")):
            mine.copy_(tensors[name])
        self._batches = int(tensors["batches"])
