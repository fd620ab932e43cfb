"""The compiled modules, loaded on first use. The reason of a failure is kept, as one sentence."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

#: Element types as the C++ side numbers them (csrc/include/fastgan/dtype.h).
DTYPE_CODES = {"float32": 0, "float64": 1}


_COMPILERS = {"_cpu": "compiler", "_cuda": "nvcc"}


@functools.cache
def _load(name: str) -> tuple[ModuleType | None, str | None]:
    try:
        # The extension uses the OpenMP thread pool that torch loads, so torch is imported first.
        importlib.import_module("torch")
        return importlib.import_module(f"fastgan.{name}"), None
    except ModuleNotFoundError:
        return None, f"fastgan.{name} was not built: no working {_COMPILERS[name]} was found when fastgan was installed"
    except ImportError as error:
        return None, f"fastgan.{name} does not load: {error}"


def cpu() -> ModuleType:
    """The module fastgan._cpu. Raises RuntimeError with the reason if it is missing."""
    return _module("_cpu")


def cuda() -> ModuleType:
    """The module fastgan._cuda. Raises RuntimeError with the reason if it is missing."""
    return _module("_cuda")


def why_not(name: str) -> str | None:
    """None if the module ("_cpu" or "_cuda") loads, else the reason in one sentence."""
    return _load(name)[1]


def _module(name: str) -> ModuleType:
    module, reason = _load(name)
    if module is None:
        raise RuntimeError(reason)
    return module
