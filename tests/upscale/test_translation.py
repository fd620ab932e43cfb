"""fastgan translate: names and sizes are kept, nothing is overwritten, colors become those of the network."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import models
from fastgan.cli import run as command
from fastgan.errors import DataError, UsageError
from fastgan.models.translation import ResNetGenerator
from fastgan.runtime import Session
from fastgan.upscale.translation import check_translator, translate


class Swap(torch.nn.Module):
    """[N, channels, H, W] in [-1, 1] → [N, out_channels, H, W]: the negative of the first channel."""

    scale, multiple, range = 1, 4, (-1.0, 1.0)

    def __init__(self, channels=3, out_channels=3):
        super().__init__()
        self.channels, self.out_channels = channels, out_channels

    def forward(self, x):
        return -x[:, :1].repeat(1, self.out_channels, 1, 1)


def session(*sizes):
    return Session(Swap(*sizes))


def picture(path, mode="RGB", size=(10, 7), **options):
    rng = np.random.default_rng(0)
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "LA": 2}[mode]
    pixels = rng.integers(0, 256, (size[1], size[0], channels), np.uint8)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path, **options)
    return pixels


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_picture(tmp_path):
    pixels = picture(tmp_path / "a.png")
    found = translate(session(), tmp_path / "a.png", tmp_path / "b.png")
    assert found.written == [tmp_path / "b.png"]
    assert np.array_equal(read(tmp_path / "b.png"), (255 - pixels[..., :1]).repeat(3, 2))
    with pytest.raises(UsageError, match=r"out: .*b.png exists; overwrite=True replaces it"):
        translate(session(), tmp_path / "a.png", tmp_path / "b.png")
    translate(session(), tmp_path / "a.png", tmp_path / "b.png", overwrite=True)
    with pytest.raises(UsageError, match="out: expected another file than the source"):
        translate(session(), tmp_path / "a.png", tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("mode", "channels", "out"), [("L", 3, 3), ("RGBA", 3, 3), ("LA", 1, 3), ("RGB", 1, 1), ("L", 1, 3)]
)
def test_colors(tmp_path, mode, channels, out):
    pixels = picture(tmp_path / "a.png", mode)
    found = translate(session(channels, out), tmp_path / "a.png", tmp_path / "b.png")
    first = pixels[..., 0]
    if (mode, channels) == ("RGB", 1):
        first = np.asarray(Image.fromarray(pixels).convert("L"))
    expected = 255 - first if out == 1 else (255 - first)[..., None].repeat(3, 2)
    assert np.array_equal(read(tmp_path / "b.png"), expected)
    assert found.notes == ({"alpha was dropped": 1} if mode in ("RGBA", "LA") else {})


def test_size(tmp_path):
    picture(tmp_path / "a.png", size=(40, 20))
    translate(session(), tmp_path / "a.png", tmp_path / "b.png", size=30)
    assert read(tmp_path / "b.png").shape == (15, 30, 3)
    translate(session(), tmp_path / "a.png", tmp_path / "c.png", size=100)
    assert read(tmp_path / "c.png").shape == (20, 40, 3)
    with pytest.raises(UsageError, match="size: expected a number >= 1, got 0"):
        translate(session(), tmp_path / "a.png", tmp_path / "d.png", size=0)


def test_a_folder(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    picture(source / "a.png")
    picture(source / "sub" / "a.jpg")
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (source / "notes.txt").write_text("x")
    found = translate(session(), source, out)
    assert found.written == [out / "a.png", out / "sub" / "a.jpg"]
    assert [path.name for path, _ in found.failed] == ["broken.png"]
    (out / "a.png").write_bytes(b"mine")
    found = translate(session(), source, out)
    assert found.skipped == [source / "a.png", source / "sub" / "a.jpg"]
    assert (out / "a.png").read_bytes() == b"mine"
    picture(source / "b.gif", "L")
    picture(source / "b.png")
    with pytest.raises(UsageError, match="would both become"):
        translate(session(), source, out)
    with pytest.raises(UsageError, match="out: expected another folder"):
        translate(session(), source, source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="source: expected a folder of images, got none"):
        translate(session(), tmp_path / "empty", out)


def test_a_picture_beyond_the_memory(tmp_path, monkeypatch):
    picture(tmp_path / "a.png", size=(64, 64))
    monkeypatch.setattr("fastgan.upscale.translation.free_host_memory", lambda: 10_000_000)
    with pytest.raises(
        DataError, match=r"is 64×64, which may take more than the free memory \(1,000 pixels\); reduce it"
    ):
        translate(session(), tmp_path / "a.png", tmp_path / "b.png")


def test_networks_that_translate_nothing():
    for network, sentence in (
        (Swap(4, 3), "expected a network of 1 or 3 channels"),
        (models.esrgan.SRVGGNetCompact(2, width=4, blocks=1), "to images of the same size, got .* 2 times as large"),
    ):
        with pytest.raises(UsageError, match=sentence):
            check_translator(Session(network).spec)


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    models.save({"G_A": ResNetGenerator(3, 1, 1, 2), "G_B": ResNetGenerator(1, 3, 1, 2)}, "both.pth")
    picture("a.png")
    assert command(["translate", "both.pth:G_A", "a.png", "b.png"]) == 0
    assert capsys.readouterr().out.startswith("1 image in ")
    assert read("b.png").ndim == 2
    assert command(["translate", "both.pth", "a.png", "c.png"]) == 1
    assert "both.pth: the file has the generators G_A, G_B: name one of them" in capsys.readouterr().err
    assert command(["translate", "nothing.pth", "a.png", "b.png"]) == 2
    assert "out: b.png exists; --overwrite replaces it" in capsys.readouterr().err
    assert command(["translate", "nothing.pth", "a.png", "c.png"]) == 2
    assert "source: nothing.pth is no run, file of weights" in capsys.readouterr().err


@pytest.mark.full
def test_public_checkpoint_exported(tmp_path, capsys, monkeypatch):
    """From a bare state dict: exported once into the cache, and by fastgan export, at any sides in multiples of 4."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = ResNetGenerator(3, 3, 1, 2)
    torch.save(network.state_dict(), "latest_net_G.pth")
    pixels = picture("a.png", size=(20, 24))
    assert command(["export", "latest_net_G.pth", "--out", "g.onnx"]) == 0
    assert "parity at batch  3" in capsys.readouterr().out
    assert command(["translate", "g.onnx", "a.png", "b.png"]) == 0
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    expected = ((network.eval()(x)[0].permute(1, 2, 0) + 1) * 127.5).detach().numpy()
    assert np.abs(read("b.png") - expected).max() < 0.51
    assert command(["translate", "latest_net_G.pth", "a.png", "c.png"]) == 0
    assert np.array_equal(read("c.png"), read("b.png"))
