"""Runs that are killed, stopped by Ctrl-C or repeated with other settings: nothing is lost or mixed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

from fastgan.errors import DataError, UsageError  # noqa: E402
from fastgan.upscale.video import pipeline  # noqa: E402

SLOW = Path(__file__).with_name("slow.py")


def start(source, out, seconds):
    return subprocess.Popen(
        [sys.executable, SLOW, source, out, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(source, out):
    process = start(source, out, 0)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def wait_for(found, process):
    deadline = time.monotonic() + 60
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def clip(kit, tmp_path):
    kit.write_clip(tmp_path / "in.mp4", 63, audio=1)
    return tmp_path / "in.mp4"


@pytest.mark.parametrize("segments", [0, 1, 3])
def test_killed_and_resumed_is_as_never_killed(kit, clip, tmp_path, segments):
    """SIGKILL while a segment is written; every packet of the result is the same."""
    out = tmp_path / "out.mp4"
    process = start(clip, out, 0.1)
    parts = tmp_path / "out.mp4.parts"
    wait_for(lambda: len([*parts.glob("0*.json")]) >= segments and any(parts.glob("0*.nut")), process)
    process.kill()
    process.communicate()
    assert not out.exists()
    left = len([*parts.glob("0*.json")])
    assert segments <= left < 6
    output = finish(clip, out)
    assert f"resumed {10 * left}" in output
    assert ("resuming after" in output) == (left > 0)
    finish(clip, tmp_path / "whole.mp4")
    for kind in ("video", "audio"):
        assert kit.packets_of(out, kind) == kit.packets_of(tmp_path / "whole.mp4", kind)
    assert len(kit.inspect(out).frames) == 63
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "whole.mp4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_playable_file_and_is_resumed(kit, clip, tmp_path, number):
    out = tmp_path / "out.mp4"
    process = start(clip, out, 0.06)
    for line in process.stdout:
        if line.startswith("done 25"):
            break
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    assert not out.exists()
    partial = kit.inspect(tmp_path / "out.partial.mp4")
    done = len(partial.frames)
    assert 25 <= done < 60
    assert f"stopped after {done} frames, written to {tmp_path / 'out.partial.mp4'}; repeat to resume" in output
    audio = kit.packets_of(tmp_path / "out.partial.mp4", "audio")[0]
    assert done / 25 - 0.07 < audio[-1][1] + 0.064 < done / 25 + 0.07
    output = finish(clip, out)
    assert f"resumed {done}" in output
    source, result = kit.inspect(clip), kit.inspect(out)
    assert result.times == source.times
    for before, after in zip(source.pictures, result.pictures, strict=True):
        assert np.abs(after.astype(int) - before.repeat(2, 0).repeat(2, 1)).mean() < 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_a_second_ctrl_c_ends_at_once(kit, clip, tmp_path):
    """It waits neither for the batch in the network nor for the partial file."""
    out = tmp_path / "out.mp4"
    process = start(clip, out, 5)
    batches = 0
    for line in process.stdout:
        batches += line.startswith("batch")
        if batches == 2:  # it is in the network: between two batches the first Ctrl-C would have ended the run
            break
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    assert output == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4.parts"]
    assert "resumed 0" in finish(clip, out)


def test_signals_are_handled_as_before_afterwards(kit, upscale, clip, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    during = []
    network = kit.Nearest(2)
    plain = network.pixels
    network.pixels = lambda frames: during.append(signal.getsignal(signal.SIGINT)) or plain(frames)
    upscale(network, clip, tmp_path / "out.mp4")
    assert before[0] not in during
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


class Broken:
    """Fails at its third batch."""

    def __init__(self, network):
        self.network, self.spec = network, network.spec
        self.calls = 0

    def pixels(self, frames):
        self.calls += 1
        if self.calls == 3:
            raise MemoryError("the device has no memory left")
        return self.network.pixels(frames)


@pytest.fixture
def half(kit, upscale, clip, tmp_path, monkeypatch):
    """The segments of a run whose network failed after 20 frames."""
    monkeypatch.setattr(pipeline, "SEGMENT_SECONDS", 0.4)
    with pytest.raises(MemoryError, match="the device has no memory left"):
        upscale(Broken(kit.Nearest(2)), clip, tmp_path / "out.mp4", batch=10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4.parts"]
    return tmp_path / "out.mp4.parts"


def test_a_network_that_fails_loses_nothing(kit, upscale, clip, tmp_path, half):
    network = kit.Nearest(2)
    done = upscale(network, clip, tmp_path / "out.mp4", batch=10)
    assert (done.frames, done.resumed) == (63, 20)
    assert sum(shape[0] for shape in network.shapes) == 43
    assert f"resuming after 20 finished frames in {half}" in done.log


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"crf": 30}, "result"),
        ({"codec": "hevc"}, "result"),
        ({"model": "another"}, "model"),
        ({"batch": 5}, "batch"),
        ("scale", "model, result"),
        ("source", "source"),
    ],
)
def test_segments_of_another_run_are_not_used(kit, upscale, clip, tmp_path, half, change, named):
    options, network = {"batch": 10}, kit.Nearest(2)
    if change == "scale":
        network = kit.Nearest(1)
    elif change == "source":
        kit.write_clip(clip, 62)
    else:
        options |= change
    done = upscale(network, clip, tmp_path / "out.mp4", **options)
    assert done.resumed == 0
    assert f"removing the segments of another run in {half} (different: {named})" in done.log
    assert len(kit.inspect(tmp_path / "out.mp4").frames) == done.frames


def test_a_damaged_segment_is_not_joined(kit, upscale, clip, tmp_path, half):
    segment = half / "00000.nut"
    segment.write_bytes(segment.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"00000\.nut"):
        upscale(kit.Nearest(2), clip, tmp_path / "out.mp4", batch=10)
    assert not (tmp_path / "out.mp4").exists()


def test_two_processes_with_the_same_output(kit, upscale, clip, tmp_path):
    process = start(clip, tmp_path / "out.mp4", 0.2)
    wait_for(lambda: any(tmp_path.glob("*/0*.nut")), process)
    with pytest.raises(
        UsageError, match=rf"out: .*out\.mp4: another process \(pid {process.pid} on .*\) is writing it"
    ):
        upscale(kit.Nearest(2), clip, tmp_path / "out.mp4")
    process.kill()
    process.communicate()


def test_the_resume_point_is_found_by_seeking_or_by_counting(kit, tmp_path, monkeypatch):
    """Seeking must end at the same frame; where it cannot be identified, all frames are counted."""
    from fastgan.upscale.video.decode import ResumePoint, VideoSource

    kit.write_clip(tmp_path / "in.mp4", 300)
    source = VideoSource(tmp_path / "in.mp4")
    frames = list(source.frames())
    last, earlier = frames[280], frames[270]
    opened = []
    plain = source.open
    monkeypatch.setattr(source, "open", lambda: opened.append(1) or plain())
    for checksum, pts, count in (
        (last.checksum, last.source_pts, 1),
        (last.checksum + 1, last.source_pts, 2),
        (last.checksum, None, 1),
    ):
        opened.clear()
        rest = list(source.frames(ResumePoint(280, last.time, pts, checksum, earlier.source_pts)))
        assert len(opened) == count
        assert [(timed.index, timed.time, timed.checksum) for timed in rest] == [
            (timed.index, timed.time, timed.checksum) for timed in frames[281:]
        ]


def test_a_full_disk_keeps_the_segments(kit, clip, tmp_path):
    """Simulated by a limit on the size of files, which is then lifted."""
    code = (
        "import resource, sys, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2);"
        "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    sizes = []
    for limit in (2000, 12000):
        process = subprocess.run(
            [sys.executable, "-c", code, str(limit), SLOW, clip, tmp_path / "out.mp4", "0"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        last = process.stderr.strip().splitlines()[-1]
        assert last.startswith("fastgan.errors.WriteError: "), process.stderr
        assert "could not be written: File too large" in last
        assert " free there" in last
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4.parts"]
        sizes.append(len(list(tmp_path.glob("out.mp4.parts/0*.json"))))
    assert sizes == [0, 7]  # the first limit fails in a segment, the second in the result
    assert "resumed 63" in finish(clip, tmp_path / "out.mp4")
    assert len(kit.inspect(tmp_path / "out.mp4").frames) == 63


def test_the_state_file(half):
    state = json.loads((half / "state.json").read_text())
    assert state["result"]["codec"] == "h264"
    assert state["result"]["crf"] == 17
    segment = json.loads((half / "00001.json").read_text())
    assert segment["frames"] == 10
    assert segment["first"] == 10 * 512
