"""Upscale videos, and write frames as videos, with PyAV (extra `video`), which is imported at first use.

pipeline.py     upscale_video: arguments, settings, resuming and stopping
stages.py       decoding, conversion to RGB, network, conversion to YUV and encoding as a thread pipeline
writer.py       VideoWriter: write frames as a video, GIF or WebP
decode.py       VideoSource: properties of a video file, and its frames with their times
color.py        conversion from the source's YUV to RGB and back
encode.py       choice of codec, container and pixel format; the encoder
segments.py     finished segments of the result on disk, for resuming
join.py         mux segments and the source's audio into one file
pyav.py         import of PyAV, conversion of its errors
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = {"VideoWriter": "fastgan.upscale.video.writer", "upscale_video": "fastgan.upscale.video.pipeline"}

__all__ = ["VideoWriter", "upscale_video"]

if TYPE_CHECKING:
    from fastgan.upscale.video.pipeline import upscale_video
    from fastgan.upscale.video.writer import VideoWriter


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fastgan.upscale.video' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
