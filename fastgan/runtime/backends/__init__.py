"""Back-ends: the libraries that run a generator. One file each, found by listing this folder.

To add one, write a file with a subclass of `base.Backend` decorated with `base.register`. Session, the choices of the
command line, `fastgan doctor` and the error messages all read this registry.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from fastgan.errors import UsageError
from fastgan.runtime.backends import base
from fastgan.runtime.backends.base import MODULE, Backend
from fastgan.runtime.hardware import installed


@functools.cache
def registry() -> dict[str, type[Backend]]:
    """All back-ends by name, in alphabetical order. Their modules are imported, the libraries behind them are not."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(base._registered.items()))


def suffixes() -> tuple[str, ...]:
    """The suffixes of the files that some back-end runs, ".onnx" for example."""
    return tuple(sorted({suffix for backend in registry().values() for suffix in backend.suffixes} - {MODULE}))


def of_native_code() -> tuple[str, ...]:
    """The suffixes of files that run native code of their own when they are opened."""
    return tuple(
        sorted(suffix for backend in registry().values() if backend.native_code for suffix in backend.suffixes)
    )


def versions() -> dict[str, str]:
    """The installed distributions behind all back-ends, with their versions."""
    names = {name for backend in registry().values() for name in backend.distributions or (backend.package,)}
    return {name: version for name in sorted(names) if (version := installed(name))}


def that_run(suffix: str) -> dict[str, type[Backend]]:
    """The back-ends that run files of a suffix, or torch modules (MODULE), by name."""
    return {name: backend for name, backend in registry().items() if suffix in backend.suffixes}


def open_backend(name: str, model: Any, device: str, threads: int | None) -> Backend:
    """Open a model, the path of a file or a torch module, in a back-end.

    Raises UsageError where the back-end cannot run here or not on that device, BackendError where it cannot open the
    model.
    """
    backend = registry()[name]
    if reason := backend.why_not(device):
        raise UsageError(f"backend: {name} cannot run here: {reason}")
    return backend(model, device, threads)


def candidates(
    model: Any, suffix: str, backend: str, device: str, threads: int | None
) -> tuple[dict[str, Callable[[], Backend]], dict[str, str]]:
    """Functions that open a model, by the name of the back-end, and the reasons why the other back-ends are left out.

    suffix: of the file, or MODULE. backend: a name, or "auto". Raises UsageError where the named back-end does not run
    such models, or none is left.
    """
    possible = that_run(suffix)
    if backend != "auto" and backend not in possible:
        what = "torch modules" if suffix == MODULE else f"{suffix} files"
        raise UsageError(f"backend: {backend} does not run {what}; expected {' or '.join(possible)}")
    reasons = {}
    for name in possible if backend == "auto" else (backend,):
        reason = possible[name].why_not(device)
        if reason is None and backend == "auto":
            reason = possible[name].why_not_automatic(device)
        if reason is not None:
            reasons[name] = reason
    opens: dict[str, Callable[[], Backend]] = {
        name: functools.partial(open_backend, name, model, device, threads)
        for name in possible
        if name not in reasons and backend in ("auto", name)
    }
    if not opens:
        text = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UsageError(f"{'model' if backend == 'auto' else 'backend'}: no back-end can run it here: {text}")
    return opens, reasons
