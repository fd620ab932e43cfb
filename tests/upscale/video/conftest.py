"""Generated clips, a network that repeats pixels, and functions that read the results."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from fastgan.runtime.spec import Spec

av = pytest.importorskip("av")

from fastgan.upscale.video.color import BT601, TV, Color, ToYUV  # noqa: E402


class Nearest:
    """A session whose network repeats every pixel scale × scale times."""

    def __init__(self, scale=2, **spec):
        self.spec = Spec("image", scale=scale, range=(0.0, 1.0), **spec)
        self.shapes = []

    def pixels(self, frames):
        assert frames.dtype == np.uint8
        self.shapes.append(frames.shape)
        return frames.repeat(self.spec.scale, 1).repeat(self.spec.scale, 2)


def drawing(number, height, width):
    """A smooth image with a bright square whose position depends on the frame number."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([40 + 160 * x / width, 60 + 120 * y / height, 200 - 120 * x / width], -1).astype(np.uint8)
    row, column = divmod(number, max(1, width // 8))
    picture[8 * row % height :, 8 * column :][:8, :8] = (250, 250, 250)
    return picture


def write_clip(
    path,
    frames=30,
    size=(48, 64),
    *,
    pixels="yuv420p",
    color=Color(BT601, TV, 2, 2),  # noqa: B008
    codec="libx264",
    times=None,
    time_base=Fraction(1, 12800),
    rate=Fraction(25),
    aspect=None,
    matrix=None,
    audio=0,
    container=None,
    options=None,
    tagged=True,
    draw=drawing,
):
    """Write a clip with `draw(number, height, width)` as frames; returns their times in units of time_base."""
    height, width = size
    times = [round(i / rate / time_base) for i in range(frames)] if times is None else times
    with av.open(f"file:{path}", "w", format=container, options=options or {}) as file:
        own = {"crf": "4", "preset": "veryfast"} if codec == "libx264" else {}
        stream = file.add_stream(codec, rate, options=own)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, pixels
        context.time_base = stream.time_base = time_base
        context.thread_count = 1
        if aspect:
            context.sample_aspect_ratio = aspect
        if tagged:
            context.colorspace, context.color_range = color.matrix, color.range
            context.color_primaries, context.color_trc = color.primaries, color.transfer
        if matrix:
            stream.set_display_matrix(matrix)
        sounds = [file.add_stream("aac", rate=16000) for _ in range(audio)]
        packets = [packet for sound in sounds for packet in _sound(sound, len(times) / float(rate))]
        convert = ToYUV(color, pixels)
        for number, time in enumerate(times):
            picture = draw(number, height, width)
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = rgb.reformat(format=pixels) if frame_is_rgb(pixels) else convert(picture)
            frame.pts, frame.time_base, frame.pict_type = time, time_base, 0
            packets += context.encode(frame)
        packets += context.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            file.mux(packet)
    return times


def frame_is_rgb(pixels):
    return av.VideoFormat(pixels).is_rgb


def _sound(stream, seconds):
    stream.codec_context.layout = "mono"
    for start in range(0, int(16000 * seconds), 1024):
        wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def inspect(path):
    """All that tests compare: frames as RGB, their times in seconds, and the properties of the file."""
    with av.open(f"file:{path}") as file:
        stream = file.streams.video[0]
        frames = list(file.decode(stream))
        first = frames[0]
        display_matrix = first.side_data.get("DISPLAYMATRIX")
        return SimpleNamespace(
            frames=frames,
            times=[frame.pts * frame.time_base for frame in frames],
            pictures=[frame.to_ndarray(format="rgb24") for frame in frames],
            color=Color(*map(int, (first.colorspace, first.color_range, first.color_primaries, first.color_trc))),
            pixels=first.format.name,
            size=(first.height, first.width),
            aspect=stream.sample_aspect_ratio,
            rotation=first.rotation,
            matrix=None if display_matrix is None else np.frombuffer(bytes(display_matrix), np.int32).tolist(),
            codec=stream.codec_context.codec.canonical_name,
            rate=stream.average_rate,
            duration=stream.duration and stream.duration * stream.time_base,
            kinds=[s.type for s in file.streams],
            metadata=dict(file.metadata),
        )


def packets_of(path, kind):
    """Bytes and times of every packet of the streams of a kind, by stream."""
    with av.open(f"file:{path}") as file:
        streams = [s for s in file.streams if s.type == kind]
        found = {stream.index: [] for stream in streams}
        for packet in file.demux(streams):
            if packet.size:
                found[packet.stream_index].append((bytes(packet), packet.pts * packet.time_base))
        return list(found.values())


@pytest.fixture
def kit():
    """The helpers above: tests are imported as files, not as a package."""
    return SimpleNamespace(
        Nearest=Nearest, drawing=drawing, write_clip=write_clip, inspect=inspect, packets_of=packets_of
    )


@pytest.fixture
def upscale(caplog):
    """upscale_video without a progress bar; `log` of the result holds its messages."""
    from fastgan.upscale.video import upscale_video

    def run(session, source, out, **options):
        caplog.clear()
        result = upscale_video(session, source, out, **{"progress": lambda done, total: None} | options)
        return SimpleNamespace(**result, log="\n".join(caplog.messages))

    return run
