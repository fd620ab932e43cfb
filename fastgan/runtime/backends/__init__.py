"""The back-ends that run a generator, each in a file; their libraries are imported when one is opened."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastgan.errors import UsageError

if TYPE_CHECKING:
    from fastgan.runtime.backends.base import Backend

#: What runs a model, by what the model is: the suffix of its file, or "" for a torch module.
RUNS = {".onnx": ("onnxruntime", "openvino"), ".pt2": ("aoti",), "": ("torch", "compile")}
NAMES = tuple(name for names in RUNS.values() for name in names)
#: The package that a back-end needs, and how a user gets it.
_NEEDS = {
    "onnxruntime": ("onnxruntime", "pip install 'fastgan[onnx]'"),
    "openvino": ("openvino", "pip install 'fastgan[openvino]'"),
    "torch": ("torch", "pip install torch"),
    "compile": ("torch", "pip install torch"),
    "aoti": ("torch", "pip install torch"),
}


def why_not(name: str, device: str) -> str | None:
    """Why a back-end cannot run on "auto", "cpu" or "cuda[:N]", or None if it may. Imports nothing that is heavy."""
    package, install = _NEEDS[name]
    try:
        found = importlib.util.find_spec(package) is not None
    except ValueError:  # sys.modules[package] is None, or a module without a spec
        found = False
    if not found:
        return f"{package} is not installed; install it with: {install}"
    if name == "openvino" and device.startswith("cuda"):
        return "OpenVINO runs on the CPU, not on NVIDIA's GPUs"
    return None


def open_backend(name: str, model: Any, device: str, threads: int | None) -> Backend:
    """Open a model: the path of a file, or a torch module.

    Raises UsageError when the back-end cannot run here or not on that device, BackendError when it cannot open the
    model.
    """
    if reason := why_not(name, device):
        raise UsageError(f"backend: {name} cannot run here: {reason}")
    if name == "onnxruntime":
        from fastgan.runtime.backends.onnxruntime import OnnxRuntime

        return OnnxRuntime(model, device, threads)
    if name == "openvino":
        from fastgan.runtime.backends.openvino import OpenVino

        return OpenVino(model, device, threads)
    if name == "aoti":
        from fastgan.runtime.backends.torch import Package

        return Package(model, device, threads)
    from fastgan.runtime.backends.torch import Network

    return Network(model, device, threads, compiled=name == "compile")


def candidates(
    model: Any, kind: str, backend: str, device: str, threads: int | None
) -> tuple[dict[str, Callable[[], Backend]], dict[str, str]]:
    """What opens a model, by back-end, and why others do not take part.

    kind: a key of RUNS. Raises UsageError when a back-end is asked for that does not run that kind, or none is left.
    """
    possible = RUNS[kind]
    if backend != "auto" and backend not in possible:
        what = f"{kind} files" if kind else "torch modules"
        raise UsageError(f"backend: {backend} does not run {what}; expected {' or '.join(possible)}")
    wanted = possible if backend == "auto" else (backend,)
    reasons = {name: reason for name in wanted if (reason := why_not(name, device))}
    if backend == "auto" and "compile" in wanted and not _on_gpu(device):
        reasons["compile"] = "compiling for a CPU takes up to a minute in each process; ask for it to have it"
    opens: dict[str, Callable[[], Backend]] = {
        name: functools.partial(open_backend, name, model, device, threads) for name in wanted if name not in reasons
    }
    if not opens:
        said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UsageError(f"{'model' if backend == 'auto' else 'backend'}: nothing runs it here: {said}")
    return opens, reasons


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and sys.modules["torch"].cuda.is_available())
