"""Mux segments and the source's audio and subtitles into one file: packets are copied, nothing is re-encoded."""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from fastgan._util.files import aside, sync
from fastgan.errors import DataError
from fastgan.upscale.video.decode import VideoSource
from fastgan.upscale.video.encode import EncodeSettings, container_of, set_display_properties
from fastgan.upscale.video.pyav import file_url, load, read_errors, write_errors
from fastgan.upscale.video.segments import Segment, SegmentStore

_logger = logging.getLogger(__name__)

#: Metadata that the muxers write themselves.
_OWN = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}


def join_segments(
    store: SegmentStore, source: VideoSource, settings: EncodeSettings, out: Path, *, scale: int, complete: bool
) -> None:
    """Write `out` from all complete segments, atomically.

    Audio, subtitles, chapters and metadata are copied from the source where the container supports them; what is left
    out is logged. scale: of the upscaling, for the display matrix. complete: whether the segments cover the whole
    source; otherwise the audio ends with them. Raises WriteError, and DataError for a damaged segment.
    """
    end = None if complete else _end(store.segments, len(store.segments) - 1, settings) * settings.time_base
    with write_errors(out), aside(out) as temporary:
        _write(store, source, settings, temporary, container_of(out), out.suffix, scale, end)
        sync(temporary)
        os.replace(temporary, out)
        sync(out.parent)


def _write(
    store: SegmentStore,
    source: VideoSource,
    settings: EncodeSettings,
    temporary: Path,
    container: str,
    suffix: str,
    scale: int,
    end: Fraction | None,
) -> None:
    options = {}
    if container in ("mp4", "mov"):
        # The index at the start, for streaming; a time scale in which the first frame's time is exact.
        options = {"movflags": "+faststart", "movie_timescale": str(settings.time_base.denominator)}
    with (
        load().open(file_url(temporary), "w", format=container, options=options) as result,
        load().open(file_url(store.path(0))) as first,
        source.open() as origin,
    ):
        template = first.streams.video[0]
        video = result.add_stream_from_template(template, opaque=True)
        video.time_base = settings.time_base
        # Again, for the streams of some codecs do not carry all of them.
        set_display_properties(video.codec_context, settings)
        if settings.aspect not in (None, 1) and settings.codec in ("vp9", "av1") and container in ("matroska", "webm"):
            _logger.warning(
                "a %s file of %s cannot store the pixel aspect of %s; .mp4 can", suffix, settings.codec, settings.aspect
            )
        if settings.codec == "hevc" and container in ("mp4", "mov"):
            video.codec_context.codec_tag = "hvc1"  # the tag that Apple's players support
        if source.matrix is not None:
            # Elements 6 and 7 are the translation in pixels.
            video.set_display_matrix([n * scale if i in (6, 7) else n for i, n in enumerate(source.matrix)])
        _copy_metadata(origin, result, source.video(origin), video)
        others = {s.index: copy for s in origin.streams if (copy := _copied_stream(s, result, suffix)) is not None}
        tracks: list[Iterable[tuple[Fraction, Any]]] = [_video_packets(store, video, settings, template)]
        if others:
            tracks.append(_other_packets(origin, others, source, end))
        for _, packet in heapq.merge(*tracks, key=lambda item: item[0]):
            result.mux(packet)


def _copy_metadata(origin: Any, result: Any, source: Any, video: Any) -> None:
    for name, value in origin.metadata.items():
        if name.lower() not in _OWN:
            result.metadata[name] = value
    _copy_stream_metadata(source, video)
    if chapters := origin.chapters():
        result.set_chapters(chapters)


def _copy_stream_metadata(source: Any, target: Any) -> None:
    target.metadata.update({name: value for name, value in source.metadata.items() if name.lower() not in _OWN})
    target.disposition = source.disposition


def _copied_stream(stream: Any, result: Any, suffix: str) -> Any:
    """The output stream for a stream of the source; None where it is left out, which is logged."""
    if stream.type == "video":
        return None
    codec = stream.codec_context and stream.codec_context.codec.canonical_name
    name = f"stream {stream.index} ({stream.type}, {codec or 'unknown codec'})"
    if stream.type not in ("audio", "subtitle"):
        _logger.warning("%s of the source is left out", name)
        return None
    if codec is None or stream.codec_context.name not in result.supported_codecs:
        _logger.warning("%s of the source is left out: a %s file cannot contain it; .mkv often can", name, suffix)
        return None
    copy = result.add_stream_from_template(stream)
    _copy_stream_metadata(stream, copy)
    return copy


def _video_packets(
    store: SegmentStore, video: Any, settings: EncodeSettings, template: Any
) -> Iterator[tuple[Fraction, Any]]:
    """The packets of all segments, with the times of the source, each after its decoding time in seconds.

    Encoders reorder frames; decoding times (dts) must increase and not exceed the presentation times (pts). Since every
    segment has its own encoder, dts are computed here: the dts of packet i is the pts of frame i − delay.
    """
    time_base = settings.time_base
    delay = max(segment.delay for segment in store.segments)
    before: list[int] = []
    for index, segment in enumerate(store.segments):
        path = store.path(index)
        with read_errors(path), load().open(file_url(path)) as container:
            stream = container.streams.video[0]
            if stream.codec_context.extradata != template.codec_context.extradata:
                raise DataError(f"{path} was encoded with other settings than the first segment; delete {store.folder}")
            packets = [packet for packet in container.demux(stream) if packet.size]
            # NUT's time base is an integer fraction of ours, and it has no durations.
            units = round(time_base / stream.time_base)
            shown = [segment.first + packet.pts // units for packet in packets]
            times = sorted(shown)
            if len(times) != segment.frames or times[-1] != segment.last:
                raise DataError(f"{path} is damaged; delete {store.folder}")
            if not before:
                step = times[1] - times[0] if len(times) > 1 else 1
                before = [times[0] - step * (delay - i) for i in range(delay)]
            decoded = before + times
            ends = dict(zip(times, [*times[1:], _end(store.segments, index, settings)], strict=True))
            for i, packet in enumerate(packets):
                packet.stream = video
                packet.time_base = time_base
                packet.pts, packet.dts = shown[i], decoded[i]
                packet.duration = ends[shown[i]] - shown[i]
                yield packet.dts * time_base, packet
            before = decoded[len(decoded) - delay :]


def _end(segments: list[Segment], index: int, settings: EncodeSettings) -> int:
    """The end time of a segment: the start of the next one, or the last frame's time and duration."""
    if index + 1 < len(segments):
        return segments[index + 1].first
    return segments[index].last + (segments[index].duration or round(1 / settings.rate / settings.time_base))


def _other_packets(
    origin: Any, others: dict[int, Any], source: VideoSource, end: Fraction | None
) -> Iterator[tuple[Fraction, Any]]:
    """Packets of the source's other streams before `end`, each after its decoding time in seconds."""
    streams = [origin.streams[index] for index in others]
    with read_errors(source.path, ", in its audio or subtitles"):
        for packet in origin.demux(streams):
            if packet.dts is None:
                continue
            base = packet.time_base
            begins = packet.dts * base - source.shift
            if end is not None and begins >= end:
                continue
            if source.shift:
                packet.dts -= round(source.shift / base)
                packet.pts = None if packet.pts is None else packet.pts - round(source.shift / base)
            packet.stream = others[packet.stream_index]
            yield begins, packet
