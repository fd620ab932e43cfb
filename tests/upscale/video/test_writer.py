"""Writing frames to files of every format, atomically."""

import io
import re

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av")

from fastgan.errors import UsageError, WriteError  # noqa: E402
from fastgan.upscale.video import VideoWriter  # noqa: E402


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov", "out.webm", "OUT.MP4"])
@pytest.mark.parametrize("size", [(48, 64), (33, 45)])
def test_videos(kit, tmp_path, name, size):
    frames = np.stack([kit.drawing(number, *size) for number in range(30)])
    with VideoWriter(tmp_path / "new" / name, size, 29.97, crf=4) as writer:
        writer.write(frames[:20])
        for frame in frames[20:]:
            writer.write(frame)
    result = kit.inspect(tmp_path / "new" / name)
    assert result.size == size
    assert result.color.matrix == 1
    assert float(result.rate) == pytest.approx(29.97, abs=0.01)
    assert result.times == pytest.approx([number / 29.97 for number in range(30)], abs=0.0011)
    for frame, picture in zip(frames, result.pictures, strict=True):
        assert np.abs(picture.astype(int) - frame).mean() < 6
    assert [p.name for p in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize(("name", "total"), [("out.webp", 1000), ("out.gif", 1000)])
def test_animations(kit, tmp_path, name, total):
    with VideoWriter(tmp_path / name, (48, 64), 30) as writer:
        for number in range(30):
            writer.write(kit.drawing(number, 48, 64))
    durations = []
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 30
        assert image.info["loop"] == 0
        for number in range(30):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - kit.drawing(number, 48, 64)).mean() < 6
    assert sum(durations) == total
    assert set(durations) <= {30, 33, 34, 40}


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_an_error_leaves_no_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"older")

    def half():
        with VideoWriter(tmp_path / name, (16, 16), 30) as writer:
            writer.write(np.zeros((16, 16, 3), np.uint8))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        half()
    with pytest.raises(UsageError, match="expected at least one before"):
        VideoWriter(tmp_path / name, (16, 16), 30).close()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"older"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("out.avi", (16, 16), 30), "path: expected a file that ends in .mp4, .mkv, .mov, .webm, .gif, .webp, got"),
        (("folder.mp4", (16, 16), 30), "path: expected a file to write, got the directory"),
        (("out.mp4", (0, 16), 30), "size: expected height and width of at least 1"),
        (("out.mp4", (16, 16), 0), "fps: expected a number above 0 and up to 1000, got 0"),
        (("out.mp4", (16, 16), float("nan")), "fps: expected a number"),
    ],
)
def test_arguments(tmp_path, arguments, words):
    (tmp_path / "folder.mp4").mkdir()
    name, size, fps = arguments
    with pytest.raises(UsageError, match=re.escape(words)):
        VideoWriter(tmp_path / name, size, fps)


def test_frames_of_wrong_shape(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", (16, 24), 30) as writer:
        writer.write(np.zeros((16, 24, 3), np.uint8))
        for wrong in (np.zeros((24, 16, 3), np.uint8), np.zeros((16, 24, 3), np.float32), np.zeros((16, 24), np.uint8)):
            with pytest.raises(UsageError, match=r"frames: expected uint8 \[N, 16, 24, 3\], got"):
                writer.write(wrong)


@pytest.mark.parametrize("name", ["out.mp4", "out.webp"])
def test_an_unwritable_path(tmp_path, name):
    (tmp_path / "file").touch()

    def write():
        with VideoWriter(tmp_path / "file" / name, (16, 16), 30) as writer:
            writer.write(np.zeros((16, 16, 3), np.uint8))

    with pytest.raises(WriteError, match=r"could not be written: (File exists|Not a directory)"):
        write()


def test_an_animation_needs_no_pyav(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with VideoWriter(tmp_path / "out.webp", (16, 16), 30) as writer:
        writer.write(np.zeros((2, 16, 16, 3), np.uint8))
    with Image.open(io.BytesIO((tmp_path / "out.webp").read_bytes())) as image:
        assert image.format == "WEBP"
