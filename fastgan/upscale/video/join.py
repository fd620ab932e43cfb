"""Pieces and the source's sound into one file: packets are moved, nothing is encoded again."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from fastgan._util.files import sync
from fastgan.errors import DataError
from fastgan.upscale.video.decode import Source
from fastgan.upscale.video.encode import Look, container_of, describe
from fastgan.upscale.video.library import address, load, reading, writing
from fastgan.upscale.video.segments import Note, Parts

#: What the muxers write themselves.
_OWN = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}


def join(
    parts: Parts, source: Source, look: Look, out: Path, *, scale: int, whole: bool, say: Callable[[str], object]
) -> None:
    """Write `out` from all whole pieces, whole or not at all. Raises WriteError.

    Sound, subtitles, chapters and titles are the source's, as far as the container takes them; what it does not take is
    said. whole: False cuts the sound where the pieces end.
    """
    end = None if whole else _end(parts.notes, len(parts.notes) - 1, look) * look.time_base
    aside = out.with_name(f".{out.name}.part")
    try:
        with writing(out):
            _write(parts, source, look, aside, container_of(out), out.suffix, scale, end, say)
            sync(aside)
            os.replace(aside, out)
            sync(out.parent)
    finally:
        aside.unlink(missing_ok=True)


def _write(
    parts: Parts,
    source: Source,
    look: Look,
    aside: Path,
    container: str,
    suffix: str,
    scale: int,
    end: Fraction | None,
    say: Callable[[str], object],
) -> None:
    options = {}
    if container in ("mp4", "mov"):
        # The index in front, so that a browser can begin at once; a clock in which the first frame's time is exact.
        options = {"movflags": "+faststart", "movie_timescale": str(look.time_base.denominator)}
    with (
        load().open(address(aside), "w", format=container, options=options) as result,
        load().open(address(parts.path(0))) as first,
        source.open() as origin,
    ):
        template = first.streams.video[0]
        video = result.add_stream_from_template(template, opaque=True)
        video.time_base = look.time_base
        # Said again, for not every codec's own stream has a place for all of it.
        describe(video.codec_context, look)
        if look.aspect not in (None, 1) and look.codec in ("vp9", "av1") and container in ("matroska", "webm"):
            say(f"the pixel aspect of {look.aspect} has no place in a {suffix} file of {look.codec}; .mp4 keeps it")
        if look.codec == "hevc" and container in ("mp4", "mov"):
            video.codec_context.codec_tag = "hvc1"  # the one of two that Apple's players know
        if source.matrix is not None:
            # The last column but one of the matrix moves the turned picture back into view, in pixels.
            video.set_display_matrix([n * scale if i in (6, 7) else n for i, n in enumerate(source.matrix)])
        _copy_facts(origin, result, source.video(origin), video)
        others = {s.index: other for s in origin.streams if (other := _taken(s, result, suffix, say)) is not None}
        tracks: list[Iterable[tuple[Fraction, Any]]] = [_pieces(parts, video, look, template)]
        if others:
            tracks.append(_others(origin, others, source, end))
        for _, packet in heapq.merge(*tracks, key=lambda item: item[0]):
            result.mux(packet)


def _copy_facts(origin: Any, result: Any, source: Any, video: Any) -> None:
    for name, value in origin.metadata.items():
        if name.lower() not in _OWN:
            result.metadata[name] = value
    _copy_title(source, video)
    if chapters := origin.chapters():
        result.set_chapters(chapters)


def _copy_title(source: Any, target: Any) -> None:
    target.metadata.update({name: value for name, value in source.metadata.items() if name.lower() not in _OWN})
    target.disposition = source.disposition


def _taken(stream: Any, result: Any, suffix: str, say: Callable[[str], object]) -> Any:
    """The stream of the result into which one of the source goes; None where it cannot, which is said."""
    if stream.type == "video":
        return None
    codec = stream.codec_context and stream.codec_context.codec.canonical_name
    what = f"stream {stream.index} ({stream.type}, {codec or 'unknown codec'})"
    if stream.type not in ("audio", "subtitle"):
        say(f"{what} of the source is left out")
        return None
    if codec is None or stream.codec_context.name not in result.supported_codecs:
        say(f"{what} of the source does not go into a {suffix} file and is left out; .mkv takes most")
        return None
    other = result.add_stream_from_template(stream)
    _copy_title(stream, other)
    return other


def _pieces(parts: Parts, video: Any, look: Look, template: Any) -> Iterator[tuple[Fraction, Any]]:
    """The packets of all pieces, with the times that the frames had in the source.

    Encoders reorder frames; a packet's time of decoding must increase and be no later than that of its display. Each
    encoder began anew with its piece, so these times are set here: packet i of all is decoded when frame i − delay of
    all is shown.
    """
    time_base = look.time_base
    delay = max(note.delay for note in parts.notes)
    before: list[int] = []
    for index, note in enumerate(parts.notes):
        path = parts.path(index)
        with reading(path), load().open(address(path)) as container:
            stream = container.streams.video[0]
            if stream.codec_context.extradata != template.codec_context.extradata:
                raise DataError(f"{path} was encoded in another way than the first; remove {parts.folder}")
            packets = [packet for packet in container.demux(stream) if packet.size]
            # NUT counts in a whole fraction of our unit, and knows no durations.
            units = round(time_base / stream.time_base)
            shown = [note.first + packet.pts // units for packet in packets]
            times = sorted(shown)
            if len(times) != note.frames or times[-1] != note.last:
                raise DataError(f"{path} is damaged; remove {parts.folder}")
            if not before:
                step = times[1] - times[0] if len(times) > 1 else 1
                before = [times[0] - step * (delay - i) for i in range(delay)]
            decoded = before + times
            ends = dict(zip(times, [*times[1:], _end(parts.notes, index, look)], strict=True))
            for i, packet in enumerate(packets):
                packet.stream = video
                packet.time_base = time_base
                packet.pts, packet.dts = shown[i], decoded[i]
                packet.duration = ends[shown[i]] - shown[i]
                yield packet.dts * time_base, packet
            before = decoded[len(decoded) - delay :]


def _end(notes: list[Note], index: int, look: Look) -> int:
    """When the last frame of a piece ends: with the next piece, or after as long as the source says."""
    if index + 1 < len(notes):
        return notes[index + 1].first
    return notes[index].last + (notes[index].duration or round(1 / look.rate / look.time_base))


def _others(
    origin: Any, others: dict[int, Any], source: Source, end: Fraction | None
) -> Iterator[tuple[Fraction, Any]]:
    """Packets of the source's other streams, up to `end`."""
    streams = [origin.streams[index] for index in others]
    with reading(source.path, ", in its sound"):
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
