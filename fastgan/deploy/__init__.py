"""The way out: verified export, and a runtime that needs no PyTorch.

Names are loaded on first use: the runtime must not pull in torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Session": "fastgan.deploy.session",
    "VideoWriter": "fastgan.deploy.video",
    "export": "fastgan.deploy.exporter",
    "open_upscaler": "fastgan.deploy.upscaler",
    "upscale_folder": "fastgan.deploy.upscale",
    "upscale_image": "fastgan.deploy.upscale",
    "upscale_video": "fastgan.deploy.video",
}

__all__ = ["Session", "VideoWriter", "export", "open_upscaler", "upscale_folder", "upscale_image", "upscale_video"]

if TYPE_CHECKING:
    from fastgan.deploy.exporter import export
    from fastgan.deploy.session import Session
    from fastgan.deploy.upscale import upscale_folder, upscale_image
    from fastgan.deploy.upscaler import open_upscaler
    from fastgan.deploy.video import VideoWriter, upscale_video


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastgan.deploy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
