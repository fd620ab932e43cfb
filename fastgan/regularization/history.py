"""A buffer of past fakes, half of what the discriminator sees as fake, so that it keeps rejecting earlier samples."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util.random import Random


class History:
    """Past fakes and their labels or sources: Shrivastava et al. 2017 (arXiv:1612.07828, section 2.3).

    size: how many. The first fakes fill it; from then on half of each batch of fakes is taken from it, and as many new
    ones replace random ones in it.
    """

    def __init__(self, size: int, device: torch.device):
        self._size, self._device = size, device
        self._images: Tensor | None = None
        self._conditions: Tensor | None = None
        self._filled = 0

    def draw(self, n: int, random: Random) -> dict[str, Tensor]:
        """Half a batch of n: "past" [n/2, C, H, W], and "past_condition" where there is one; nothing until full."""
        if self._images is None or self._filled < self._size:
            return {}
        indices = random.choice(n // 2, self._size)
        past = {"past": self._images[indices]}
        return past if self._conditions is None else {**past, "past_condition": self._conditions[indices]}

    def add(self, fakes: Tensor, condition: Tensor | None, random: Random) -> None:
        """Add new fakes [N, C, H, W] and their conditions: as many as there is room for, or else half of them."""
        if self._images is None:
            self._images = fakes.new_zeros((self._size, *fakes.shape[1:]))
            self._conditions = None if condition is None else condition.new_zeros((self._size, *condition.shape[1:]))
        room = self._size - self._filled
        n = min(room, len(fakes)) if room else len(fakes) // 2
        indices: Tensor | slice
        indices = slice(self._filled, self._filled + n) if room else random.choice(n, self._size)
        # The latter half: past ones replaced the first half in what the discriminator saw.
        self._images[indices] = fakes[len(fakes) - n :]
        if self._conditions is not None and condition is not None:
            self._conditions[indices] = condition[len(fakes) - n :]
        self._filled += n if room else 0

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        kept = {"images": self._images, "labels": self._conditions, "filled": torch.tensor(self._filled)}
        return {name: value for name, value in kept.items() if value is not None}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self._images, self._conditions = (
            tensors[name].to(self._device) if name in tensors else None for name in ("images", "labels")
        )
        self._filled = int(tensors["filled"])


def with_past(fake: Tensor, condition: Tensor | None, noise: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Fakes [N, C, H, W] of which past ones replace the first, and the conditions of them all."""
    if "past" not in noise:
        return fake, condition
    past, past_condition = noise["past"], noise.get("past_condition")
    both = torch.cat([past.to(fake.dtype), fake[len(past) :]])
    if condition is None or past_condition is None:
        return both, None
    return both, torch.cat([past_condition, condition[len(past) :]])
