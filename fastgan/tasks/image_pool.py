"""The image pool of CycleGAN: a discriminator sees fakes of the last generator step, half of them changed for earlier
ones (Zhu et al. 2017, arXiv:1703.10593, section 4; Shrivastava et al. 2017, arXiv:1612.07828, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan._util.random import Random


class ImagePool:
    """Fakes of one domain: those of the last generator step, and earlier ones.

    size: earlier ones. All ranks hold the same ones, of all ranks' batches. Every row of such a batch has a part of
    them to itself, ceil(size / rows) slots, so that rows of one batch never want the same one. While slots are empty a
    new fake is stored there and shown; from then on it changes places with a random earlier one of its row with
    probability 0.5. size 0: fakes are shown as they come.
    """

    def __init__(self, size: int):
        self._size = size
        self._slots = 0
        self._first: int | None = None  # the generator step whose fakes are the first ones in the pool
        self._images: Tensor | None = None  # [K, slots, C, H, W]
        #: What the discriminator sees next, [K, C, H, W]; None before the first generator step.
        self.shown: Tensor | None = None

    def draw(self, n: int, random: Random, step: int) -> dict[str, Tensor]:
        """What `exchange` takes for n new fakes of each rank: "slot" int64, "old" and "store" bool, [n · ranks].

        step: the generator's, whose fakes they are.
        """
        chance = random.uniform_of_all(n, 2)
        self._slots = -(-self._size // len(chance))
        if self._first is None:
            self._first = step
        filled, slot = step - self._first, (chance[:, 0] * self._slots).long().clamp_(max=max(self._slots - 1, 0))
        if filled >= self._slots:
            old = chance[:, 1] < (0.5 if self._slots else 0.0)
            return {"slot": slot, "old": old, "store": old}
        every = torch.ones_like(slot, dtype=torch.bool)
        return {"slot": torch.full_like(slot, filled), "old": ~every, "store": every}

    def exchange(self, fakes: Tensor, slot: Tensor, old: Tensor, store: Tensor) -> None:
        """Show these fakes [K, C, H, W], or earlier ones in their place, and store them. Waits for nothing."""
        known = self._images is not None and self._images.shape == (len(fakes), self._slots, *fakes.shape[1:])
        if self.shown is None or self._images is None or not known:
            fresh = self.shown is None
            self.shown = fakes.clone(memory_format=torch.contiguous_format)
            self._images = fakes.new_zeros((len(fakes), self._slots, *fakes.shape[1:]))
            if not fresh:  # another size, of the batch or of the world: the pool begins anew with the next fakes
                self._first = None
                return
        self.shown.copy_(fakes)
        if not self._slots:
            return
        rows = torch.arange(len(fakes), device=fakes.device)
        earlier = self._images[rows, slot]
        self._images[rows, slot] = torch.where(store[:, None, None, None], self.shown, earlier)
        self.shown.copy_(torch.where(old[:, None, None, None], earlier, self.shown))

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        if self.shown is None or self._images is None:
            return {}
        first = -1 if self._first is None else self._first
        return {"shown": self.shown, "images": self._images, "first": torch.tensor(first)}

    def load_tensors(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """The inverse of `tensors`."""
        kept = {name: value.to(device) for name, value in tensors.items() if name != "first"}
        self.shown, self._images = kept.get("shown"), kept.get("images")
        first = int(tensors.get("first", torch.tensor(-1)))
        self._first = first if first >= 0 else None


class ImagePools:
    """A pool for each of several domains, whose tensors come and go in dictionaries of all of them.

    mean: replaces tensors by their means over all ranks.
    """

    def __init__(self, domains: str, size: int, mean: Callable[[list[Tensor]], None] = lambda tensors: None):
        self._pools = {domain: ImagePool(size) for domain in domains}
        self._mean, self._rank, self._ranks, self._turn = mean, 0, 1, 0

    def __getitem__(self, domain: str) -> ImagePool:
        return self._pools[domain]

    def draw(self, n: int, random: Random, step: int) -> dict[str, Tensor]:
        """What `exchange` takes for n new fakes of each domain, for the noise of a generator step."""
        self._turn, (self._rank, self._ranks) = 0, random.place
        drawn = {domain: pool.draw(n, random, step) for domain, pool in self._pools.items()}
        return {f"pool.{domain}.{name}": value for domain, found in drawn.items() for name, value in found.items()}

    def fakes(self, like: dict[str, Tensor], make: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """ "fake.DOMAIN" for each entry of `like` [n, C, H, W], for the noise of a discriminator step.

        make(domain): new ones, before the first generator step. Of an update that accumulates batches each one has
        fakes of its own.
        """
        found = {}
        for domain, real in like.items():
            shown, n = self._pools[domain].shown, len(real)
            first = (self._turn * self._ranks + self._rank) * n
            if shown is None or len(shown) < n * self._ranks:
                with torch.no_grad():
                    shown, first = make(domain).to(real.dtype).contiguous(), 0
            first = min(first % len(shown), len(shown) - n)
            found[f"fake.{domain}"] = shown[first : first + n]
        self._turn += 1
        return found

    def outputs(self, made: dict[str, Tensor], like: dict[str, Tensor], noise: dict[str, Any]) -> dict[str, Tensor]:
        """The outputs of a generator's loss that `exchange` takes: fakes by domain, in the dtype of real ones."""
        fakes = {f"fake.{domain}": fake.to(like[domain].dtype) for domain, fake in made.items()}
        return fakes | {name: value for name, value in noise.items() if name.startswith("pool.")}

    def exchange(self, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Show the fakes of a generator step. outputs: of the losses of its batches."""
        joined = {name: torch.cat([self._of_all(name, each[name]) for each in outputs]) for name in outputs[0]}
        for domain, pool in self._pools.items():
            drawn = {name: joined[f"pool.{domain}.{name}"] for name in ("slot", "old", "store")}
            pool.exchange(joined[f"fake.{domain}"], **drawn)

    def _of_all(self, name: str, values: Tensor) -> Tensor:
        """Fakes of all ranks' batches; what was drawn is the same on all."""
        if self._ranks == 1 or not name.startswith("fake."):
            return values
        every = values.new_zeros((self._ranks, *values.shape))
        every[self._rank] = values
        self._mean([every])
        return (every * self._ranks).flatten(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        kept = {domain: pool.tensors() for domain, pool in self._pools.items()}
        return {f"pool.{domain}.{name}": value for domain, found in kept.items() for name, value in found.items()}

    def load_tensors(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """The inverse of `tensors`."""
        for domain, pool in self._pools.items():
            start = f"pool.{domain}."
            own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
            pool.load_tensors(own, device)
