"""Videos through a network, and frames into videos: PyAV (extra `video`), loaded at the first use.

upscale_video   pipeline.py: decode, to RGB, network, to YUV and encode, at the same time
VideoWriter     writer.py: frames of any origin into a file
decode.py       a source: its facts, and its frames in order with their times
color.py       from the source's YUV to RGB and back
encode.py       which codec, container and pixel format; an encoder
segments.py     what is done already, in pieces that survive the process
join.py         pieces and the source's sound into one file, without encoding anything again
line.py         stages as threads with short queues between them
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {"VideoWriter": "fastgan.upscale.video.writer", "upscale_video": "fastgan.upscale.video.pipeline"}

__all__ = ["VideoWriter", "upscale_video"]

if TYPE_CHECKING:
    from fastgan.upscale.video.pipeline import upscale_video
    from fastgan.upscale.video.writer import VideoWriter


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastgan.upscale.video' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
