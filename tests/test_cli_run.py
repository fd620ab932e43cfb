"""fastgan run: images, grids and walks from a generator of latents."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import models
from fastgan.cli.run_model import parse_seeds, save_images, save_sheet, save_walk
from fastgan.errors import UsageError, WriteError
from fastgan.export import export
from fastgan.runtime import labels
from fastgan.runtime.spec import Spec


class Plain:
    """The first three numbers of z are the color of a 20×20 image; records batch sizes."""

    provider = "numpy"

    def __init__(self, channels=3, span=(-1.0, 1.0)):
        self.spec = Spec("latent", latent_shape=(2, 4), channels=channels, range=span)
        self.batches = []

    def __call__(self, z):
        assert z.dtype == np.float32
        assert z.shape[1:] == (2, 4)
        self.batches.append(len(z))
        low, high = self.spec.range
        color = np.clip(z.reshape(len(z), -1)[:, : self.spec.channels] / 3, -1, 1)
        color = (color + 1) / 2 * (high - low) + low
        return np.broadcast_to(color[:, :, None, None], (len(z), self.spec.channels, 20, 20)).astype(np.float32)


def color_of(seed):
    z = np.random.default_rng(seed).standard_normal((2, 4), dtype=np.float32)
    return np.rint((np.clip(z.ravel()[:3] / 3, -1, 1) + 1) * 127.5)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", [7]), ("0-3", [0, 1, 2, 3]), ("1,5,9", [1, 5, 9]), (" 3 , 0-1,3", [3, 0, 1, 3]), ("5-5", [5])],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "-1", "3-1", "1,,2", "1.5", "0x1", "1-2-3", "0-1000000", "0-99999999999999999999", "²"]
)
def test_bad_seeds(text):
    with pytest.raises(UsageError, match="seeds: expected"):
        parse_seeds(text)


def test_one_image_per_seed(tmp_path):
    for span in ((-1.0, 1.0), (0.0, 1.0)):
        session = Plain(span=span)
        assert save_images(session, [3, 12345, 0], tmp_path, batch=2) == 3
        assert session.batches == [2, 1]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["seed00000.png", "seed00003.png", "seed12345.png"]
        for seed in (0, 3, 12345):
            picture = np.asarray(Image.open(tmp_path / f"seed{seed:05d}.png"))
            assert picture.shape == (20, 20, 3)
            assert np.array_equal(picture[10, 10], color_of(seed))


def test_a_grid(tmp_path):
    session = Plain()
    assert save_sheet(session, list(range(9)), tmp_path / "grid.png", batch=4) == 9
    assert session.batches == [4, 4, 1]
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (3 * 62 + 2, 3 * 62 + 2, 3)  # 20 pixels, three times as large, and margins
    for seed in range(9):
        assert np.array_equal(sheet[30 + 62 * (seed // 3), 30 + 62 * (seed % 3)], color_of(seed))


@pytest.mark.parametrize("name", ["walk.mp4", "walk.webm", "walk.webp", "walk.gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_walks(tmp_path, name, channels):
    av = pytest.importorskip("av")
    session = Plain(channels)
    count = save_walk(session, [0, 1, 2], tmp_path / name, frames=6, fps=12, batch=4)
    assert count == 13
    assert session.batches == [4, 4, 4, 1]
    if name.endswith(("mp4", "webm")):
        with av.open(str(tmp_path / name)) as file:
            images = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    else:
        images = []
        with Image.open(tmp_path / name) as image:
            for number in range(image.n_frames):
                image.seek(number)
                image.load()
                # Equal consecutive frames are stored once, with the sum of their durations.
                images += round(image.info["duration"] / (1000 / 12)) * [np.asarray(image.convert("RGB"))]
    assert len(images) == 13
    assert images[0].shape == (60, 60, 3)
    for i, seed in enumerate((0, 1, 2)):
        expected = color_of(seed) if channels == 3 else color_of(seed)[:1].repeat(3)
        assert np.abs(images[6 * i][30, 30] - expected).max() <= 8


def test_bad_input(tmp_path):
    upscaler = SimpleNamespace(spec=Spec("image", scale=2))
    for make in (
        lambda: save_images(upscaler, [0], tmp_path),
        lambda: save_sheet(upscaler, [0], tmp_path / "grid.png"),
        lambda: save_walk(upscaler, [0, 1], tmp_path / "walk.webp", frames=2, fps=2),
    ):
        with pytest.raises(UsageError, match="model: expected a generator from latents"):
            make()
    with pytest.raises(UsageError, match="seeds: expected at least two to walk between, got 1"):
        save_walk(Plain(), [3], tmp_path / "walk.webp", frames=2, fps=2)
    with pytest.raises(UsageError, match="seeds: expected at most 10,000 for one grid, got 10,001"):
        save_sheet(Plain(), list(range(10_001)), tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"seed0000\.png could not be written: (File exists|Not a directory)"):
        save_images(Plain(), [0], tmp_path / "file")


@pytest.fixture
def model(tmp_path):
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    network, _ = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(5)
    network(torch.randn(64, 8))
    export(network, tmp_path / "g.onnx", latent_shape=(8,))
    return tmp_path / "g.onnx"


def test_the_command(command, model, tmp_path):
    pytest.importorskip("av")
    done = command("run", model, "--seeds", "0-8", "--out", "grid.png")
    assert done.returncode == 0, done.stderr
    assert re.match(r"9 images in a grid in \d+\.\d s \(.*CPU.*\): grid\.png\n$", done.stdout)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (3 * 58 + 2, 3 * 58 + 2, 3)
    done = command("run", model, "--seeds", "4", "--out", "images")
    assert done.returncode == 0, done.stderr
    one = np.asarray(Image.open(tmp_path / "images" / "seed0004.png"))
    assert np.array_equal(grid[60:116:2, 60:116:2], one)  # the same image alone and in a batch
    assert one.std() > 5
    done = command("run", model, "--seeds", "1,5", "--out", "walk.mp4", "--frames", 10, "--loop")
    assert done.returncode == 0, done.stderr
    assert "a walk of 20 frames in" in done.stdout
    assert (tmp_path / "walk.mp4").stat().st_size > 1000
    for words, expected in (
        (["g.onnx", "--seeds", "x"], "seeds: expected numbers such as 0-63 or 1,5,9, got 'x'"),
        (["g.onnx", "--out", "a.txt"], "out: expected a folder, a .png, or one of .mp4"),
        (["g.onnx", "--frames", "0"], "frames: expected a number from 1 to 100000, got 0"),
        (["g.onnx"], "out: grid.png exists; --overwrite replaces it"),
        (["none.onnx", "--overwrite"], "none.onnx"),
        ([], "Missing from fastgan run"),
    ):
        done = command("run", *words)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


class Conditional:
    """Images whose gray level is the class, plus a little of z."""

    spec = Spec("latent", latent_shape=(5,), classes=3)

    def __call__(self, z, y):
        labels.check(y, len(z), self.spec)
        made = np.clip(z[:, 0] / 100, -0.01, 0.01) + y - 1
        return np.broadcast_to(made[:, None, None, None], (len(z), 3, 20, 20)).astype(np.float32)


def gray_of(path):
    return np.asarray(Image.open(path))[10, 10, 0]


def test_one_image_per_seed_of_one_class(tmp_path):
    for label in (None, 1):
        save_images(Conditional(), [4, 2, 9], tmp_path, 2, label)
        for seed in (4, 2, 9):
            of = seed % 3 if label is None else label
            assert abs(int(gray_of(tmp_path / f"seed{seed:04d}.png")) - [0, 127.5, 255][of]) < 3
    with pytest.raises(UsageError, match="class: expected a number from 0 to 2, got 3"):
        save_sheet(Conditional(), [1], tmp_path / "grid.png", label=3)
    Conditional.spec, spec = Spec("latent", latent_shape=(5,)), Conditional.spec
    try:
        with pytest.raises(UsageError, match="class: the generator was trained without labels"):
            save_sheet(Conditional(), [1], tmp_path / "grid.png", label=0)
    finally:
        Conditional.spec = spec


def test_a_walk_stays_in_its_class(tmp_path, monkeypatch):
    frames = []

    class Writer:
        def __init__(self, *given, **more):
            self.frames = 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, frame):
            frames.append(int(frame[0, 0, 0]))

    monkeypatch.setattr("fastgan.upscale.video.writer.VideoWriter", Writer)
    for label, gray in ((None, 255), (0, 0)):
        frames.clear()
        save_walk(Conditional(), [5, 1], tmp_path / "w.webp", frames=4, fps=4, label=label)
        assert len(frames) == 5
        assert all(abs(value - gray) < 3 for value in frames)
