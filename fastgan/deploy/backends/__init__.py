"""The back-ends that run a generator, each in a file; their libraries are imported when one is opened."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from fastgan.errors import UsageError

if TYPE_CHECKING:
    from fastgan.deploy.backends.base import Backend

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
        from fastgan.deploy.backends.ort import OnnxRuntime

        return OnnxRuntime(model, device, threads)
    if name == "openvino":
        from fastgan.deploy.backends.ov import OpenVino

        return OpenVino(model, device, threads)
    if name == "aoti":
        from fastgan.deploy.backends.network import Package

        return Package(model, device, threads)
    from fastgan.deploy.backends.network import Network

    return Network(model, device, threads, compiled=name == "compile")
