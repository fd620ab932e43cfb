"""Runs exported generators; ONNX files need no PyTorch.

Names are loaded on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Session": "fastgan.runtime.session",
    "StylePair": "fastgan.runtime.pair",
}

__all__ = ["Session", "StylePair"]

if TYPE_CHECKING:
    from fastgan.runtime.pair import StylePair
    from fastgan.runtime.session import Session


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastgan.runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
