"""Choose codec, container and pixel format, and encode frames with them."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan.errors import UsageError
from fastgan.upscale.video.color import Color
from fastgan.upscale.video.pyav import load

if TYPE_CHECKING:
    import av

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Codec:
    """encoder: FFmpeg's name. crf: default constant rate factor. options: further options of the encoder."""

    encoder: str
    crf: int
    options: dict[str, str]
    pixel_formats: tuple[str, ...] = ("yuv420p", "yuv444p")


# Fast presets: the encoder must keep up with the network; at a low crf they cost file size, not quality.
CODECS = {
    "h264": Codec("libx264", 17, {"preset": "veryfast"}),
    "hevc": Codec("libx265", 20, {"preset": "fast", "x265-params": "log-level=none"}),
    "vp9": Codec("libvpx-vp9", 24, {"deadline": "good", "cpu-used": "4", "row-mt": "1", "b": "0"}),
    "av1": Codec("libsvtav1", 26, {"preset": "8"}, ("yuv420p",)),
}
#: Suffix → FFmpeg's name of the container, and its codecs, the preferred one first.
CONTAINERS = {
    ".mp4": ("mp4", ("h264", "hevc", "av1", "vp9")),
    ".mkv": ("matroska", ("h264", "hevc", "av1", "vp9")),
    ".mov": ("mov", ("h264", "hevc")),
    ".webm": ("webm", ("vp9", "av1")),
}


def container_of(out: Path, argument: str = "out") -> str:
    """FFmpeg's name of the container of a file name. Raises UsageError for a suffix that is not in CONTAINERS."""
    if out.suffix.lower() not in CONTAINERS:
        raise UsageError(f"{argument}: expected a file that ends in {', '.join(CONTAINERS)}, got {out}")
    return CONTAINERS[out.suffix.lower()][0]


def choose_codec(codec: str, out: Path) -> str:
    """A key of CODECS: `codec`, or for "auto" the first that container and PyAV support.

    Raises UsageError where they do not support it, or none.
    """
    container_of(out)
    supported = CONTAINERS[out.suffix.lower()][1]
    if codec != "auto" and codec not in CODECS:
        raise UsageError(f"codec: expected auto, {', '.join(CODECS)}, got {codec!r}")
    if codec != "auto" and codec not in supported:
        raise UsageError(f"codec: a {out.suffix} file cannot contain {codec}; expected {', '.join(supported)}")
    available = [name for name in supported if has_encoder(CODECS[name].encoder)]
    if codec != "auto" and codec not in available:
        raise UsageError(f"codec: this build of PyAV has no encoder {CODECS[codec].encoder} for {codec}")
    if not available:
        raise UsageError(f"codec: this build of PyAV has no encoder for {out.suffix} ({', '.join(supported)})")
    if codec == "auto" and available[0] != supported[0]:
        missing = CODECS[supported[0]].encoder
        _logger.warning("this build of PyAV has no encoder %s; the video is written as %s", missing, available[0])
    return available[0] if codec == "auto" else codec


def has_encoder(name: str) -> bool:
    """Whether this build of PyAV has an encoder of that name."""
    av = load()
    try:
        av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def pixel_format(codec: str, width: int, height: int, full_chroma: bool) -> str:
    """yuv420p, which every player supports; yuv444p for odd sizes (4:2:0 needs even ones) and for `full_chroma`.

    Raises UsageError where the codec does not support an odd size.
    """
    odd = width % 2 or height % 2
    wanted = "yuv444p" if odd or full_chroma else "yuv420p"
    if wanted in CODECS[codec].pixel_formats:
        return wanted
    if odd:
        raise UsageError(f"codec: {codec} supports even sizes only, the result is {width}×{height}; use another codec")
    return CODECS[codec].pixel_formats[0]


@dataclass(frozen=True)
class EncodeSettings:
    """How frames are encoded. width, height: of the result. time_base: unit of times. aspect: of a pixel."""

    codec: str
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    color: Color
    aspect: Fraction | None
    crf: int

    def as_json(self) -> dict[str, Any]:
        """The settings and the versions of the encoder library, as JSON values: they determine the encoded bytes."""
        av = load()
        library = ".".join(map(str, av.library_versions["libavcodec"]))
        numbers = {name: str(value) for name, value in asdict(self).items() if isinstance(value, Fraction)}
        return {**asdict(self), **numbers, "av": av.__version__, "libavcodec": library}


def check_crf(crf: int | None, codec: str) -> int:
    """`crf`, or the codec's default for None. Raises UsageError outside of 0 (best) to 51 (63 for VP9 and AV1)."""
    worst = 63 if codec in ("vp9", "av1") else 51
    if crf is None:
        return CODECS[codec].crf
    if not 0 <= crf <= worst:
        raise UsageError(f"crf: expected a number from 0 (best) to {worst} for {codec}, got {crf}")
    return crf


def set_display_properties(context: Any, settings: EncodeSettings) -> None:
    """Set frame rate, pixel aspect and color tags of a codec context."""
    context.framerate = settings.rate
    if settings.aspect:
        context.sample_aspect_ratio = settings.aspect
    color = settings.color
    context.colorspace, context.color_range = color.matrix, color.range
    context.color_primaries, context.color_trc = color.primaries, color.transfer


class Encoder:
    """Adds a video stream to an output container and encodes its frames. Raises UsageError for an unsupported size."""

    def __init__(self, container: Any, settings: EncodeSettings):
        codec = CODECS[settings.codec]
        stream = container.add_stream(codec.encoder, options={**codec.options, "crf": str(settings.crf)})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = settings.width, settings.height, settings.pixel_format
        context.time_base = stream.time_base = settings.time_base
        set_display_properties(context, settings)
        context.thread_count = _threads()
        self._container, self._settings, self._context = container, settings, context
        self._opened = False

    def write(self, frame: av.VideoFrame, time: int) -> list[Any]:
        """Encode a frame; returns the finished packets, to be muxed. time: in units of the settings' time_base."""
        frame.pts, frame.time_base, frame.pict_type = time, self._settings.time_base, 0
        if not self._opened:
            self._open()
        return self._context.encode(frame)

    def finish(self) -> list[Any]:
        """Flush the encoder and return its last packets."""
        return self._context.encode(None) if self._opened else []

    def _open(self) -> None:
        try:
            self._context.open()
        except load().error.FFmpegError as error:
            settings = self._settings
            encoder, size = CODECS[settings.codec].encoder, f"{settings.width}×{settings.height}"
            raise UsageError(
                f"codec: {encoder} does not support {size} {settings.pixel_format}: {error.strerror or error}"
            ) from error
        self._opened = True


def _threads() -> int:
    # On few cores, leave some for the network.
    cores = os.cpu_count() or 1
    return cores if cores > 4 else max(1, cores // 2)
