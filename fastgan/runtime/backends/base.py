"""What a back-end is: a model, opened, that runs arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgan.runtime.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Port:
    """An input or output of a model. shape: None where any number goes. dtype: as numpy names it."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Backend(ABC):
    """A model that is ready to run. Not for several threads at once.

    name: by which it is asked for. title: the library with its version. provider: what the work runs on, in the
    library's own words. device: "cpu" or "cuda:N". threads: of the CPU, None where the library decides.
    """

    name: str
    title: str
    provider: str
    device: str
    threads: int | None
    #: What a person should know of how it runs; lines of `Session.describe()`.
    notes: list[str]
    inputs: list[Port]
    outputs: list[Port]
    #: Spec and further facts of a model that only its library can read.
    says: tuple[Spec, dict[str, Any]] | None = None
    #: Calls of a new shape before it is as fast as it gets: what compiles or captures has some.
    warm_ups: int = 0
    #: The values of the bytes 0 and 255 of pixels; of a model that does not say, set once it is known.
    limits: tuple[float, float] = (0.0, 1.0)

    @abstractmethod
    def run(self, x: np.ndarray, y: np.ndarray | None = None, *, pixels: bool = False) -> np.ndarray:
        """x float32, C-contiguous, and labels y int64 [N] of a model that takes some → float32; with pixels frames
        uint8 [N, H, W, C] → uint8, of an image model."""

    def run_tensor(self, x: Tensor, y: Tensor | None = None, *, pixels: bool = False) -> Tensor:
        """The same for tensors; the result is on the device of x."""
        import torch

        labels = None if y is None else y.cpu().numpy()
        return torch.from_numpy(self.run(x.detach().cpu().contiguous().numpy(), labels, pixels=pixels)).to(x.device)


def first_line(error: BaseException) -> str:
    """What an error says, short."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
