"""Mutated videos."""

from pathlib import Path
from random import Random

import numpy as np


def video_seeds(folder: Path) -> list[bytes]:
    import av

    found = []
    for suffix, codec in (("mp4", "libx264"), ("mkv", "mpeg4"), ("webm", "libvpx"), ("avi", "mjpeg")):
        path = folder / f"clip.{suffix}"
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            file.metadata["title"] = "a title"
            for i in range(6):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8), format="rgb24")
                for packet in stream.encode(frame):
                    file.mux(packet)
            for packet in stream.encode():
                file.mux(packet)
        found.append(path.read_bytes())
    return found


def latin_title(random: Random, data: bytes) -> bytes:
    return data.replace(b"a title", random.choice((b"\xe9 t\xeftle", b"\xff\xfe\0\xd8\xff\xff\xff", b"\x80" * 7)))


def open_video(path: Path) -> object:
    from fastgan.upscale.video.decode import VideoSource

    source = VideoSource(path)
    return sum(1 for _ in zip(source.frames(), range(100), strict=False))
