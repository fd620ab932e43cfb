"""Random numbers: those of a training run, the same for any number of ranks, and the states of all generators as JSON.

The global generators of Python and numpy are kept too: a user's batches or modules may draw from them.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Random:
    """Draws on a device from a generator of its own.

    All ranks draw the same numbers for the batches of all ranks, and each takes its own part: two ranks of batch N see
    what one rank of batch 2N sees, and a run can be resumed on another number of ranks.

    host: a second generator, on the CPU, for numbers that decide what is computed at all, such as a size that the
    whole batch is resized to: the device is not waited for, and all ranks draw the same.
    """

    def __init__(self, seed: int, device: torch.device, rank: int = 0, ranks: int = 1):
        self.generator = torch.Generator(device).manual_seed(seed)
        self.host = torch.Generator().manual_seed(seed)
        self._rank, self._ranks = rank, ranks

    @property
    def place(self) -> tuple[int, int]:
        """Which rank this is, and how many train together."""
        return self._rank, self._ranks

    def normal(self, n: int, *shape: int) -> Tensor:
        """N(0, 1), float32 [n, *shape]."""
        return self._own(torch.randn, n, shape)

    def uniform(self, n: int, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 [n, *shape]."""
        return self._own(torch.rand, n, shape)

    def uniform_of_all(self, n: int, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 [n · ranks, *shape]: those for the batches of all ranks, on each of them."""
        return torch.rand(n * self._ranks, *shape, device=self.generator.device, generator=self.generator)

    def labels(self, n: int, classes: int) -> Tensor:
        """Uniform class labels, int64 [n]."""
        return self._own(lambda *shape, **where: torch.randint(classes, shape, **where), n, ())

    def choice(self, n: int, among: int) -> Tensor:
        """n different numbers below `among`, int64 [n]; the same on all ranks."""
        return torch.randperm(among, device=self.generator.device, generator=self.generator)[:n]

    def number(self) -> float:
        """One number for the whole batch, uniform in [0, 1), from the host's generator; the same on all ranks."""
        return float(torch.rand((), generator=self.host))

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson counts at rates >= 0, float [N, ...], in their dtype and on their device.

        Each image has a generator of its own, as how many numbers an image takes depends on its pixels. Their seeds
        are drawn from the host's generator.
        """
        seeds = torch.randint(2**62, (len(rates) * self._ranks,), generator=self.host).tolist()
        own = seeds[len(rates) * self._rank : len(rates) * (self._rank + 1)]
        drawn = [
            torch.poisson(rate, torch.Generator(rate.device).manual_seed(seed))
            for rate, seed in zip(rates, own, strict=True)
        ]
        return torch.stack(drawn) if drawn else rates

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restores the states of the generators at the end, so that what is drawn inside is drawn again."""
        before = self.generator.get_state(), self.host.get_state()
        try:
            yield
        finally:
            for generator, state in zip((self.generator, self.host), before, strict=True):
                generator.set_state(state)

    def _own(self, draw: Callable[..., Tensor], n: int, shape: tuple[int, ...]) -> Tensor:
        every = draw(n * self._ranks, *shape, device=self.generator.device, generator=self.generator)
        return every[n * self._rank : n * (self._rank + 1)]


def seed(number: int) -> None:
    """Seed every default generator: torch's, Python's and numpy's."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002


def preserved(device: torch.device) -> AbstractContextManager[None]:
    """What is drawn from torch's default generators inside leaves them as they were: to measure, not to train."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def encode(source: torch.Generator) -> str:
    """The state of a torch generator as text."""
    return _text(source.get_state().numpy())


def decode(source: torch.Generator, text: str) -> None:
    """Put a torch generator into a state that `encode` gave."""
    source.set_state(torch.from_numpy(_array(text, np.uint8)))


def encode_global() -> dict[str, Any]:
    """The states of `random` and `numpy.random`, in plain values."""
    version, numbers, gauss = random.getstate()
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    if "key" in state["state"]:  # all but the Mersenne twister keep plain numbers
        state["state"]["key"] = _text(state["state"]["key"].astype(np.uint32))
    return {"python": [version, _text(np.array(numbers, np.uint32)), gauss], "numpy": state}


def decode_global(states: dict[str, Any]) -> None:
    """Put `random` and `numpy.random` into states that `encode_global` gave."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(_array(numbers, np.uint32).tolist()), gauss))
    inner = dict(states["numpy"]["state"])
    if "key" in inner:
        inner["key"] = _array(inner["key"], np.uint32)
    np.random.set_state({**states["numpy"], "state": inner})  # noqa: NPY002


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _array(text: str, kind: type) -> np.ndarray:
    return np.frombuffer(bytearray(base64.b64decode(text)), kind)
