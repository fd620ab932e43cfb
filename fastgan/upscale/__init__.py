"""Super-resolution of images, folders and videos, and translation of images.

Names are imported at first use: an exported model runs without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = {
    "VideoWriter": "fastgan.upscale.video",
    "open_upscaler": "fastgan.upscale.upscaler",
    "translate": "fastgan.upscale.translation",
    "upscale_folder": "fastgan.upscale.images",
    "upscale_image": "fastgan.upscale.images",
    "upscale_video": "fastgan.upscale.video",
}

__all__ = ["VideoWriter", "open_upscaler", "translate", "upscale_folder", "upscale_image", "upscale_video"]

if TYPE_CHECKING:
    from fastgan.upscale.images import upscale_folder, upscale_image
    from fastgan.upscale.translation import translate
    from fastgan.upscale.upscaler import open_upscaler
    from fastgan.upscale.video import VideoWriter, upscale_video


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fastgan.upscale' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
