"""A buffer of past fakes, half of what the discriminator sees as fake: it is not to forget what it has seen through."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.train.noise import Noise
from fastgan.train.regularization import Draws


class History:
    """Past fakes and their labels or sources, as Shrivastava et al. 2017 (arXiv:1612.07828, section 2.3) keep them.

    size: how many. The first fakes fill it; from then on half of each batch of fakes is taken from it, and as many new
    ones take random places in it.
    """

    def __init__(self, size: int, noise: Noise):
        self._size, self._noise = size, noise
        self._images: Tensor | None = None
        self._labels: Tensor | None = None
        self._filled = 0

    def draws(self, n: int) -> Draws:
        """Half a batch of n: "past" [n/2, C, H, W], and "past_y" where there are y; nothing until it is full."""
        if self._images is None or self._filled < self._size:
            return {}
        places = self._noise.places(n // 2, self._size)
        past = {"past": self._images[places]}
        return past if self._labels is None else {**past, "past_y": self._labels[places]}

    def keep(self, fakes: Tensor, y: Tensor | None) -> None:
        """Take new fakes [N, C, H, W] and their y: as many as there is room for, or else half of them."""
        if self._images is None:
            self._images = fakes.new_zeros((self._size, *fakes.shape[1:]))
            self._labels = None if y is None else y.new_zeros((self._size, *y.shape[1:]))
        room = self._size - self._filled
        n = min(room, len(fakes)) if room else len(fakes) // 2
        places: Tensor | slice
        places = slice(self._filled, self._filled + n) if room else self._noise.places(n, self._size)
        # The latter half: the discriminator has seen no past ones in their place.
        self._images[places] = fakes[len(fakes) - n :]
        if self._labels is not None and y is not None:
            self._labels[places] = y[len(fakes) - n :]
        self._filled += n if room else 0

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        kept = {"images": self._images, "labels": self._labels, "filled": torch.tensor(self._filled)}
        return {name: value for name, value in kept.items() if value is not None}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        device = self._noise.random.device
        self._images, self._labels = (
            tensors[name].to(device) if name in tensors else None for name in ("images", "labels")
        )
        self._filled = int(tensors["filled"])
