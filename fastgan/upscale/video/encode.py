"""What is written: codec, container and pixel format, and an encoder set up for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan.errors import UsageError
from fastgan.upscale.video.color import Color
from fastgan.upscale.video.library import load

if TYPE_CHECKING:
    import av


@dataclass(frozen=True)
class Codec:
    """encoder: FFmpeg's name. crf: the default of its constant quality. options: others of the encoder."""

    encoder: str
    crf: int
    options: dict[str, str]
    pixels: tuple[str, ...] = ("yuv420p", "yuv444p")


# Fast presets: the encoder must keep up with the network, and at a low crf they cost size, not looks.
CODECS = {
    "h264": Codec("libx264", 17, {"preset": "veryfast"}),
    "hevc": Codec("libx265", 20, {"preset": "fast", "x265-params": "log-level=none"}),
    "vp9": Codec("libvpx-vp9", 24, {"deadline": "good", "cpu-used": "4", "row-mt": "1", "b": "0"}),
    "av1": Codec("libsvtav1", 26, {"preset": "8"}, ("yuv420p",)),
}
#: Suffix → FFmpeg's name of the container, and the codecs it takes, the preferred one first.
CONTAINERS = {
    ".mp4": ("mp4", ("h264", "hevc", "av1", "vp9")),
    ".mkv": ("matroska", ("h264", "hevc", "av1", "vp9")),
    ".mov": ("mov", ("h264", "hevc")),
    ".webm": ("webm", ("vp9", "av1")),
}


def container_of(out: Path, argument: str = "out") -> str:
    """FFmpeg's name of the container of a file. Raises UsageError for a suffix that is none of CONTAINERS."""
    if out.suffix.lower() not in CONTAINERS:
        raise UsageError(f"{argument}: expected a file that ends in {', '.join(CONTAINERS)}, got {out}")
    return CONTAINERS[out.suffix.lower()][0]


def choose_codec(asked: str, out: Path, say: Callable[[str], object]) -> str:
    """A name of CODECS: the asked one where container and PyAV take it; for "auto" the first that both take.

    Raises UsageError where there is none.
    """
    container_of(out)
    fitting = CONTAINERS[out.suffix.lower()][1]
    if asked != "auto" and asked not in CODECS:
        raise UsageError(f"codec: expected auto, {', '.join(CODECS)}, got {asked!r}")
    if asked != "auto" and asked not in fitting:
        raise UsageError(f"codec: {asked} does not go into a {out.suffix} file; {', '.join(fitting)} do")
    there = [name for name in fitting if has_encoder(CODECS[name].encoder)]
    if asked != "auto" and asked not in there:
        raise UsageError(f"codec: this build of PyAV has no encoder {CODECS[asked].encoder} for {asked}")
    if not there:
        raise UsageError(f"codec: this build of PyAV has no encoder for {out.suffix} ({', '.join(fitting)})")
    if asked == "auto" and there[0] != fitting[0]:
        say(f"this build of PyAV has no encoder {CODECS[fitting[0]].encoder}; the video is written as {there[0]}")
    return there[0] if asked == "auto" else asked


def has_encoder(name: str) -> bool:
    """Whether this build of PyAV has it."""
    av = load()
    try:
        av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def pixel_format(codec: str, width: int, height: int, full_chroma: bool) -> str:
    """yuv420p, which plays everywhere; yuv444p where the size is odd (4:2:0 has no half pixels) or chroma is to stay.

    Raises UsageError where the codec has no fitting one.
    """
    odd = width % 2 or height % 2
    wanted = "yuv444p" if odd or full_chroma else "yuv420p"
    if wanted in CODECS[codec].pixels:
        return wanted
    if odd:
        raise UsageError(f"codec: {codec} takes even sizes only, the result is {width}×{height}; choose another codec")
    return CODECS[codec].pixels[0]


@dataclass(frozen=True)
class Look:
    """All that decides how frames are written. width, height: of the result; time_base: of the frames' times."""

    codec: str
    width: int
    height: int
    pixels: str
    time_base: Fraction
    rate: Fraction
    color: Color
    aspect: Fraction | None
    crf: int

    def facts(self) -> dict[str, Any]:
        """As JSON takes it, with the versions that the bits depend on."""
        av = load()
        library = ".".join(map(str, av.library_versions["libavcodec"]))
        numbers = {name: str(value) for name, value in asdict(self).items() if isinstance(value, Fraction)}
        return {**asdict(self), **numbers, "av": av.__version__, "libavcodec": library}


def check_crf(crf: int | None, codec: str) -> int:
    """The asked quality or the codec's default. Raises UsageError outside of 0 (best) to 51, 63 for VP9 and AV1."""
    worst = 63 if codec in ("vp9", "av1") else 51
    if crf is None:
        return CODECS[codec].crf
    if not 0 <= crf <= worst:
        raise UsageError(f"crf: expected a number from 0 (best) to {worst} for {codec}, got {crf}")
    return crf


def describe(context: Any, look: Look) -> None:
    """Say to a codec's context how the pictures are to be shown."""
    context.framerate = look.rate
    if look.aspect:
        context.sample_aspect_ratio = look.aspect
    color = look.color
    context.colorspace, context.color_range = color.matrix, color.range
    context.color_primaries, context.color_trc = color.primaries, color.transfer


class Encoder:
    """A video stream in a container that is being written. Raises UsageError where the encoder refuses the size."""

    def __init__(self, container: Any, look: Look):
        codec = CODECS[look.codec]
        stream = container.add_stream(codec.encoder, options={**codec.options, "crf": str(look.crf)})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = look.width, look.height, look.pixels
        context.time_base = stream.time_base = look.time_base
        describe(context, look)
        context.thread_count = _threads()
        self._container, self._look, self._context = container, look, context
        self._opened = False

    def write(self, frame: av.VideoFrame, time: int) -> list[Any]:
        """Encode a frame; returns the packets that are ready, for the container to mux."""
        frame.pts, frame.time_base, frame.pict_type = time, self._look.time_base, 0
        if not self._opened:
            self._open()
        return self._context.encode(frame)

    def finish(self) -> list[Any]:
        """The packets that the encoder still holds."""
        return self._context.encode(None) if self._opened else []

    def _open(self) -> None:
        try:
            self._context.open()
        except load().error.FFmpegError as error:
            look = self._look
            raise UsageError(
                f"codec: {CODECS[look.codec].encoder} refuses {look.width}×{look.height} {look.pixels}:"
                f" {error.strerror or error}"
            ) from error
        self._opened = True


def _threads() -> int:
    # Where the network has the same few cores, the encoder must not take them all.
    cores = os.cpu_count() or 1
    return cores if cores > 4 else max(1, cores // 2)
