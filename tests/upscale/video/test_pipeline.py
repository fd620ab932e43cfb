"""The result has every frame of the source, larger, at its time, with its audio."""

from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")

from fastgan.upscale.video import pipeline  # noqa: E402


def resembles(picture, expected):
    return np.abs(picture.astype(int) - expected).mean() < 8


def test_every_frame_in_order_with_its_time(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "in.mp4", 60)
    network = kit.Nearest(2)
    done = upscale(network, tmp_path / "in.mp4", tmp_path / "out.mp4", batch=7)
    assert (done.frames, done.resumed) == (60, 0)
    assert done.fps == pytest.approx(60 / done.seconds)
    assert set(done.busy) == {"decode", "to RGB", "network", "to YUV", "encode"}
    assert all(0 < share < 1.1 for share in done.busy.values())
    assert network.shapes == 8 * [(7, 48, 64, 3)] + [(4, 48, 64, 3)]
    source, result = kit.inspect(tmp_path / "in.mp4"), kit.inspect(tmp_path / "out.mp4")
    assert result.size == (96, 128)
    assert (result.codec, result.pixels) == ("h264", "yuv420p")
    assert result.times == source.times
    assert (result.rate, result.duration) == (source.rate, source.duration)
    for before, after in zip(source.pictures, result.pictures, strict=True):
        assert resembles(after, before.repeat(2, 0).repeat(2, 1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def irregular(count, start=0):
    return (start + np.cumsum(np.random.default_rng(3).integers(1000, 9000, count))).tolist()


@pytest.mark.parametrize("seconds", [4, 0.3])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_irregular_times_are_kept(kit, upscale, tmp_path, monkeypatch, suffix, seconds):
    """In one segment and in several, each with its own encoder."""
    monkeypatch.setattr(pipeline, "SEGMENT_SECONDS", seconds)
    base = Fraction(1, 90000)
    times = kit.write_clip(tmp_path / "in.mp4", times=irregular(41), time_base=base)
    upscale(kit.Nearest(1), tmp_path / "in.mp4", tmp_path / f"out{suffix}")
    result = kit.inspect(tmp_path / f"out{suffix}")
    exact = [time * base for time in times]
    assert kit.inspect(tmp_path / "in.mp4").times == pytest.approx(exact, abs=0.0006)  # its start, in milliseconds
    if suffix in (".mp4", ".mov"):
        assert result.times == kit.inspect(tmp_path / "in.mp4").times
    else:  # Matroska counts milliseconds
        assert max(abs(a - b) for a, b in zip(result.times, exact, strict=True)) <= Fraction(1, 1000)
    for number, picture in enumerate(result.pictures):
        assert resembles(picture, kit.drawing(number, 48, 64))


@pytest.mark.parametrize("base", [Fraction(1, 30), Fraction(1001, 30000), Fraction(1, 1_000_000)])
def test_units_of_time(kit, upscale, tmp_path, base):
    step = max(1, round(Fraction(1, 30) / base))
    times = [i * step for i in range(9)]
    kit.write_clip(tmp_path / "in.nut", times=times, time_base=base, options={"avoid_negative_ts": "disabled"})
    upscale(kit.Nearest(1), tmp_path / "in.nut", tmp_path / "out.mp4")
    assert kit.inspect(tmp_path / "out.mp4").times == [i * step * base for i in range(9)]


def test_a_source_that_starts_at_any_time(kit, upscale, tmp_path):
    """Whole seconds of a broadcast's clock are subtracted from video and audio."""
    times = [90000 * 7200 + 45000 + 3600 * i for i in range(25)]
    kit.write_clip(tmp_path / "in.mkv", times=times, time_base=Fraction(1, 90000))
    done = upscale(kit.Nearest(1), tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert "the source starts at 7200 s; the result starts at 0" in done.log
    assert kit.inspect(tmp_path / "out.mp4").times == [Fraction(1, 2) + Fraction(i, 25) for i in range(25)]


def test_audio_is_copied_without_encoding(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "in.mp4", 50, audio=2)
    for suffix in (".mp4", ".mkv", ".mov"):
        upscale(kit.Nearest(2), tmp_path / "in.mp4", tmp_path / f"out{suffix}")
        before = kit.packets_of(tmp_path / "in.mp4", "audio")
        after = kit.packets_of(tmp_path / f"out{suffix}", "audio")
        assert len(before) == len(after) == 2
        for one, other in zip(before, after, strict=True):
            assert [data for data, _ in one] == [data for data, _ in other]
            # Matroska has no negative times, with which AAC starts: there video and audio are shifted together.
            shift = kit.inspect(tmp_path / f"out{suffix}").times[0]
            assert (shift == 0) == (suffix != ".mkv")
            assert [float(time + shift) for _, time in one] == pytest.approx(
                [float(time) for _, time in other], abs=0.0011
            )


def test_streams_that_the_container_cannot_contain_are_logged(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "in.mp4", 10, audio=1)
    done = upscale(kit.Nearest(1), tmp_path / "in.mp4", tmp_path / "out.webm")
    assert "stream 1 (audio, aac) of the source is left out: a .webm file cannot contain it" in done.log
    assert kit.inspect(tmp_path / "out.webm").kinds == ["video"]


def test_subtitles_titles_and_chapters(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "plain.mp4", 50)
    with av.open(str(tmp_path / "plain.mp4")) as plain, av.open(str(tmp_path / "in.mkv"), "w") as file:
        video = file.add_stream_from_template(plain.streams.video[0])
        text = file.add_mux_stream("subrip")
        text.time_base = Fraction(1, 1000)
        text.metadata["language"] = "fin"
        file.metadata["title"] = "A clip"
        file.set_chapters(
            [{"id": 1, "start": 0, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}]
        )
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = video
                file.mux(packet)
        line = av.Packet(b"Hello")
        line.stream, line.pts, line.dts, line.duration, line.time_base = text, 400, 400, 900, Fraction(1, 1000)
        file.mux(line)
    upscale(kit.Nearest(1), tmp_path / "in.mkv", tmp_path / "out.mkv")
    assert kit.packets_of(tmp_path / "out.mkv", "subtitle") == [[(b"Hello", Fraction(2, 5))]]
    with av.open(str(tmp_path / "out.mkv")) as file:
        assert file.metadata["title"] == "A clip"
        assert [chapter["metadata"]["title"] for chapter in file.chapters()] == ["One"]
        assert file.streams.subtitles[0].language == "fin"
    done = upscale(kit.Nearest(1), tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert "(subtitle, subrip) of the source is left out: a .mp4 file cannot contain it" in done.log


def test_rotation_and_pixel_aspect(kit, upscale, tmp_path):
    matrix = [0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30]
    kit.write_clip(tmp_path / "in.mp4", 5, matrix=matrix, aspect=Fraction(4, 3))
    upscale(kit.Nearest(2), tmp_path / "in.mp4", tmp_path / "out.mp4")
    source, result = kit.inspect(tmp_path / "in.mp4"), kit.inspect(tmp_path / "out.mp4")
    assert result.rotation == source.rotation == -90
    assert result.matrix == [*matrix[:6], 96 << 16, *matrix[7:]]
    assert result.aspect == source.aspect == Fraction(4, 3)
    upscale(kit.Nearest(2), tmp_path / "in.mp4", tmp_path / "av1.mp4", codec="av1")
    assert kit.inspect(tmp_path / "av1.mp4").aspect == Fraction(4, 3)
    done = upscale(kit.Nearest(2), tmp_path / "in.mp4", tmp_path / "out.webm")
    assert "a .webm file of vp9 cannot store the pixel aspect of 4/3" in done.log


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (1, 1), (3, 2)])
@pytest.mark.parametrize("scale", [1, 2])
def test_odd_sizes_keep_every_pixel(kit, upscale, tmp_path, size, scale):
    kit.write_clip(tmp_path / "in.mkv", 3, size, codec="ffv1", pixels="bgr0")
    done = upscale(kit.Nearest(scale), tmp_path / "in.mkv", tmp_path / "out.mp4", crf=1)
    result = kit.inspect(tmp_path / "out.mp4")
    assert result.size == (scale * size[0], scale * size[1])
    assert ("4:2:0 needs even sizes" in done.log) == (scale == 1)
    expected = kit.drawing(2, *size).repeat(scale, 0).repeat(scale, 1)
    assert resembles(result.pictures[2], expected)


def test_codecs(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "in.mp4", 5, (64, 64))
    for out, codec in (("out.mp4", "hevc"), ("out.mp4", "vp9"), ("out.mkv", "av1"), ("out.webm", "auto")):
        upscale(kit.Nearest(2), tmp_path / "in.mp4", tmp_path / out, codec=codec, overwrite=True)
        result = kit.inspect(tmp_path / out)
        assert result.codec == ("vp9" if codec == "auto" else codec)
        assert result.times == pytest.approx([Fraction(i, 25) for i in range(5)], abs=0.001)
        assert resembles(result.pictures[4], kit.drawing(4, 64, 64).repeat(2, 0).repeat(2, 1))


def test_progress_and_the_automatic_batch(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "in.mp4", 40)
    seen = []
    network = kit.Nearest(1)
    upscale(network, tmp_path / "in.mp4", tmp_path / "out.mp4", progress=lambda *counts: seen.append(counts))
    assert seen == [(16, 40), (32, 40), (40, 40)]


def test_progress_is_logged_without_a_terminal(kit, tmp_path, caplog, monkeypatch):
    from fastgan._util import progress
    from fastgan.upscale.video import upscale_video

    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    kit.write_clip(tmp_path / "in.mp4", 40)
    upscale_video(kit.Nearest(1), tmp_path / "in.mp4", tmp_path / "out.mp4", batch=10)
    assert "in.mp4: 64×48 h264 yuv420p → 64×48 h264 yuv420p, smpte170m, limited range" in caplog.messages
    assert "upscaling in.mp4: 20 of 40 frames" in caplog.text
    assert "per second, 0:0" in caplog.text


def test_memory_does_not_grow_with_the_frames(kit, upscale, tmp_path):
    def flat(number, height, width):
        return np.full((height, width, 3), number % 200, np.uint8)

    kit.write_clip(tmp_path / "in.mp4", 400, (96, 128), draw=flat)
    resident = []

    def look(done, total):
        with open("/proc/self/statm") as file:
            resident.append(int(file.read().split()[1]) * 4096)

    upscale(kit.Nearest(2), tmp_path / "in.mp4", tmp_path / "out.mp4", progress=look, batch=4)
    # The 300 frames after the first 100 are 44 MB as RGB.
    assert max(resident[25:]) - resident[24] < 8e6
