"""Errors of one sentence, and no incomplete file under the final name."""

import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av")

from fastgan.errors import DataError, UsageError, WriteError  # noqa: E402
from fastgan.runtime.spec import Spec  # noqa: E402
from fastgan.upscale.video import upscale_video  # noqa: E402
from fastgan.upscale.video.encode import choose_codec  # noqa: E402


def make(kit, path, kind):
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video at all\n" * 100)
    elif kind == "picture":
        Image.new("RGB", (32, 32)).save(path, "PNG")
    elif kind == "sound":
        with av.open(str(path), "w", format="mp4") as file:
            stream = file.add_stream("aac", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    elif kind == "cut":  # the index of an MP4 is at its end
        kit.write_clip(path, 20)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "unknown codec":
        kit.write_clip(path, 2, container="mp4")
        path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    elif kind == "scrambled":
        kit.write_clip(path, 2)
        data = bytearray(path.read_bytes())
        start = data.index(b"mdat") + 4
        length = int.from_bytes(data[start - 8 : start - 4], "big") - 8
        data[start : start + length] = bytes(length)
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("missing", UsageError, "does not exist"),
        ("directory", UsageError, "expected a video file, got the directory"),
        ("empty", DataError, "is empty"),
        ("text", DataError, "is damaged or not a video"),
        ("picture", UsageError, "is an image (png), not a video"),
        ("sound", DataError, "expected a video stream, got audio"),
        ("cut", DataError, "is damaged or not a video"),
        ("unknown codec", DataError, "not supported by this build of FFmpeg"),
        ("scrambled", DataError, "holds no frame that can be decoded"),
    ],
)
def test_sources(kit, upscale, tmp_path, kind, error, words):
    source = tmp_path / "in.mp4"
    make(kit, source, kind)
    with pytest.raises(error, match=re.escape(words)) as caught:
        upscale(kit.Nearest(2), source, tmp_path / "out.mp4")
    assert str(source) in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} <= {"in.mp4"}


@pytest.mark.parametrize(
    ("out", "options", "words"),
    [
        ("out.xyz", {}, "out: expected a file that ends in .mp4, .mkv, .mov, .webm, got"),
        ("out", {}, "out: expected a file that ends in"),
        ("folder", {}, "out: expected a video file to write, got the directory"),
        ("there.mp4", {}, "exists already; overwrite replaces"),
        ("in.mp4", {"overwrite": True}, "is the source itself"),
        ("/proc/nowhere/out.mp4", {}, "out: /proc/nowhere/out.mp4 cannot be written"),
        ("there.mp4/out.mp4", {}, "cannot be written: Not a directory"),
        ("out.mp4", {"codec": "divx"}, "codec: expected auto, h264, hevc, vp9, av1, got 'divx'"),
        ("out.webm", {"codec": "h264"}, "codec: a .webm file cannot contain h264; expected vp9, av1"),
        ("out.mp4", {"crf": 52}, "crf: expected a number from 0 (best) to 51 for h264, got 52"),
        ("out.webm", {"crf": -1}, "crf: expected a number from 0 (best) to 63 for vp9, got -1"),
        ("out.mp4", {"batch": 0}, "batch: expected auto or a number from 1, got 0"),
        ("out.mp4", {"batch": "some"}, "batch: expected auto or a number from 1, got 'some'"),
    ],
)
def test_arguments(kit, upscale, tmp_path, out, options, words):
    kit.write_clip(tmp_path / "in.mp4", 2)
    (tmp_path / "there.mp4").write_bytes(b"older")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=re.escape(words)):
        upscale(kit.Nearest(2), tmp_path / "in.mp4", tmp_path / out, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "in.mp4", "there.mp4"]
    assert (tmp_path / "there.mp4").read_bytes() == b"older"


def test_unsupported_networks(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "in.mp4", 2)
    for spec in (Spec("latent", latent_shape=(8,)), Spec("image", channels=1)):
        network = kit.Nearest(2)
        network.spec = spec
        with pytest.raises(UsageError, match="model: expected a network from RGB images to images"):
            upscale(network, tmp_path / "in.mp4", tmp_path / "out.mp4")


def test_sizes_that_the_encoder_does_not_support(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "in.mkv", 2, (33, 47), codec="ffv1", pixels="bgr0")
    with pytest.raises(UsageError, match="codec: av1 supports even sizes only, the result is 47×33"):
        upscale(kit.Nearest(1), tmp_path / "in.mkv", tmp_path / "out.mp4", codec="av1")
    kit.write_clip(tmp_path / "in.mkv", 1, (16, 9000), codec="ffv1", pixels="bgr0")
    with pytest.raises(UsageError, match=r"codec: libx264 does not support 18000×32 yuv420p"):
        upscale(kit.Nearest(2), tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("damage", ["cut, with an index", "overwritten", "cut, without an index"])
def test_damage_further_on(kit, upscale, tmp_path, damage):
    """The frames before it are kept as OUT.partial."""
    suffix = ".mkv" if damage == "cut, without an index" else ".mp4"
    source = tmp_path / f"in{suffix}"
    noise = np.random.default_rng(0)
    kit.write_clip(
        source, 60, draw=lambda number, h, w: noise.integers(0, 256, (h, w, 3), dtype=np.uint8),
        options={} if suffix == ".mkv" else {"movflags": "faststart"},
    )  # fmt: skip
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    if damage == "overwritten":
        data[middle : middle + 3000] = bytes(3000)
    source.write_bytes(data if damage == "overwritten" else data[:middle])
    with pytest.raises(DataError, match=r"in\.m.*; the \d+ frames before that are in .*out\.partial") as caught:
        upscale(kit.Nearest(2), source, tmp_path / f"out{suffix}")
    assert ("its end is missing" in str(caught.value)) == (damage == "cut, without an index")
    count = int(re.search(r"the (\d+) frames", str(caught.value))[1])
    assert 10 < count < 50
    assert len(kit.inspect(tmp_path / f"out.partial{suffix}").frames) == count
    assert sorted(p.name for p in tmp_path.iterdir()) == [source.name, f"out.partial{suffix}"]


def test_a_change_of_size(kit, upscale, tmp_path):
    """Two H.264 streams, one behind the other."""
    for name, size in (("one", (48, 64)), ("two", (64, 64))):
        kit.write_clip(tmp_path / f"{name}.h264", 10, size, container="h264")
    source = tmp_path / "in.h264"
    source.write_bytes((tmp_path / "one.h264").read_bytes() + (tmp_path / "two.h264").read_bytes())
    with pytest.raises(DataError, match=r"frame 10 is 64×64, those before are 64×48; a change of size"):
        upscale(kit.Nearest(2), source, tmp_path / "out.mp4")
    assert len(kit.inspect(tmp_path / "out.partial.mp4").frames) == 10


def test_no_pyav(kit, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"PyAV is not installed; install it with: pip install 'fastgan\[video\]'"):
        upscale_video(kit.Nearest(2), tmp_path / "in.mp4", tmp_path / "out.mp4")


def test_encoders_missing_from_pyav(monkeypatch, tmp_path, caplog):
    from fastgan.upscale.video import encode

    monkeypatch.setattr(encode, "has_encoder", lambda name: name == "libx265")
    assert choose_codec("auto", tmp_path / "out.mp4") == "hevc"
    assert caplog.messages == ["this build of PyAV has no encoder libx264; the video is written as hevc"]
    with pytest.raises(UsageError, match="codec: this build of PyAV has no encoder libx264 for h264"):
        choose_codec("h264", tmp_path / "out.mp4")
    with pytest.raises(UsageError, match=r"codec: this build of PyAV has no encoder for \.webm \(vp9, av1\)"):
        choose_codec("auto", tmp_path / "out.webm")


def test_a_file_name_with_a_colon(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "http:clip.mp4", 3)
    upscale(kit.Nearest(1), tmp_path / "http:clip.mp4", tmp_path / "tcp:out.mp4")
    assert len(kit.inspect(tmp_path / "tcp:out.mp4").frames) == 3


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        "ffconcat version 1.0\nfile /etc/passwd\n",
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>\n',
    ],
)
def test_a_playlist_is_not_followed(upscale, kit, tmp_path, text):
    (tmp_path / "in.mp4").write_text(text)
    with pytest.raises(UsageError, match="is a playlist, not a video"):
        upscale(kit.Nearest(1), tmp_path / "in.mp4", tmp_path / "out.mp4")


def test_an_output_folder_that_disappears(kit, upscale, tmp_path):
    """It is removed while the video is upscaled."""
    kit.write_clip(tmp_path / "in.mp4", 40)
    folder = tmp_path / "folder"

    def remove(done, total):
        shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(WriteError, match=r"could not be written: No such file or directory; .* free there"):
        upscale(kit.Nearest(2), tmp_path / "in.mp4", folder / "out.mp4", progress=remove, batch=4)
