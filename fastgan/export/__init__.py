"""Verified export of trained generators to ONNX, TensorRT, AOTInductor and Triton server.

Names are loaded on first use: the command line and the runtime must not pull in torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "export": "fastgan.export.api",
    "export_pair": "fastgan.export.api",
}

__all__ = ["export", "export_pair"]

if TYPE_CHECKING:
    from fastgan.export.api import export, export_pair


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastgan.export' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
