"""The interface of a back-end and its registration: a class in a file of this package with `@register`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from fastgan.runtime.hardware import is_importable
from fastgan.runtime.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

#: Stands among the suffixes of a back-end that runs torch modules.
MODULE = ""


@dataclass(frozen=True)
class Port:
    """An input or output of a model. dtype: numpy's name of it.

    shape: None where any size is accepted; empty where the number of axes is not stated either.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Backend(ABC):
    """A model opened in one library. Not safe for several threads at once; `Session` holds a lock.

    The class says what fastgan needs to know before the library is imported: `name`, `suffixes`, `package`, `install`,
    `why_not`, `why_not_automatic` and `status`. A file of this package imports its library inside functions only.
    `cls(model, device, threads)` opens a model: the path of a file, or a torch module. It raises UsageError where the
    device cannot be used, BackendError where the library cannot open the model.
    """

    #: What users ask for: Session(backend=name), fastgan bench --backends name.
    name: ClassVar[str]
    #: Suffixes of the files that it runs, in lower case; MODULE for torch modules.
    suffixes: ClassVar[tuple[str, ...]]
    #: Whether its files hold native code, which opening them runs.
    native_code: ClassVar[bool] = False
    #: The Python package that it needs, and the command that installs it.
    package: ClassVar[str]
    install: ClassVar[str]
    #: Distributions whose versions its speed depends on, where they are not called like the package.
    distributions: ClassVar[tuple[str, ...]] = ()

    #: Set by opening a model. title: the library with its version. provider: what computes, in the library's own words.
    title: str
    provider: str
    #: "cpu" or "cuda:N".
    device: str
    #: Threads of the CPU; None where the library decides.
    threads: int | None
    #: Further lines of `Session.describe()`.
    notes: list[str]
    #: Empty where the library does not tell.
    inputs: list[Port]
    outputs: list[Port]
    #: Spec and facts of a file that only its library, or a file beside it, can tell; None for ONNX files.
    stated: tuple[Spec, dict[str, Any]] | None = None
    #: Calls of a new shape that are slower than later ones (compilation, capture).
    warm_ups: int = 0
    #: The values that the bytes 0 and 255 of pixels stand for. Session sets it from the spec.
    limits: tuple[float, float] = (0.0, 1.0)

    @abstractmethod
    def __init__(self, model: Any, device: str, threads: int | None): ...

    @abstractmethod
    def run(self, x: np.ndarray, *others: np.ndarray, pixels: bool = False) -> np.ndarray:
        """x float32 and the other inputs of the spec, C-contiguous: labels int64 [N] or float32 [N, K] of a conditional
        generator, and controls float32 → images float32 [N, C, H, W], signals [N, C, T] or styles.

        pixels: x is frames uint8 [N, H, W, C] of an image model, and so is the result.
        """

    def run_tensor(self, x: Tensor, *others: Tensor, pixels: bool = False) -> Tensor:
        """`run` for tensors; the result is on the device of x."""
        import torch

        given = [tensor.detach().cpu().contiguous().numpy() for tensor in (x, *others)]
        return torch.from_numpy(self.run(*given, pixels=pixels)).to(x.device)

    @classmethod
    def why_not(cls, device: str) -> str | None:
        """Why it cannot run here on "auto", "cpu" or "cuda[:N]", or None if it may. Imports no library."""
        if not is_importable(cls.package):
            return f"{cls.package} is not installed; install it with: {cls.install}"
        return None

    @classmethod
    def why_not_automatic(cls, device: str) -> str | None:
        """Why backend="auto" leaves it out although it can run, or None."""
        return None

    @classmethod
    def status(cls) -> str:
        """One line for `fastgan doctor` where `why_not("auto")` is None; it may import the library and raise."""
        return f"{cls.package} is installed"


_Class = TypeVar("_Class", bound=type[Backend])
_registered: dict[str, type[Backend]] = {}


def register(backend: _Class) -> _Class:
    """Class decorator: makes a back-end known to Session, the command line and the doctor."""
    other = _registered.get(backend.name)
    if other is not None and other.__module__ != backend.__module__:
        raise ValueError(f"back-end {backend.name!r} is registered twice: {other.__module__}, {backend.__module__}")
    _registered[backend.name] = backend
    return backend
