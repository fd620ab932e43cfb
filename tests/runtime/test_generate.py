"""Pictures, grids and walks from a generator of latents."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import models
from fastgan.errors import UsageError, WriteError
from fastgan.export import export
from fastgan.runtime import generate
from fastgan.runtime.spec import Spec


class Plain:
    """The first three numbers of z are the color of a 20 × 20 picture; keeps the sizes of its batches."""

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
    assert generate.parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "-1", "3-1", "1,,2", "1.5", "0x1", "1-2-3", "0-1000000", "0-99999999999999999999", "²"]
)
def test_bad_seeds(text):
    with pytest.raises(UsageError, match="seeds: expected"):
        generate.parse_seeds(text)


def test_a_seed_is_one_picture(tmp_path):
    for span in ((-1.0, 1.0), (0.0, 1.0)):
        session = Plain(span=span)
        assert generate.save_pictures(session, [3, 12345, 0], tmp_path, batch=2) == 3
        assert session.batches == [2, 1]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["seed00000.png", "seed00003.png", "seed12345.png"]
        for seed in (0, 3, 12345):
            picture = np.asarray(Image.open(tmp_path / f"seed{seed:05d}.png"))
            assert picture.shape == (20, 20, 3)
            assert np.array_equal(picture[10, 10], color_of(seed))


def test_a_grid(tmp_path):
    session = Plain()
    assert generate.save_sheet(session, list(range(9)), tmp_path / "grid.png", batch=4) == 9
    assert session.batches == [4, 4, 1]
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (3 * 62 + 2, 3 * 62 + 2, 3)  # 20 pixels, three times as large, and margins
    for seed in range(9):
        assert np.array_equal(sheet[30 + 62 * (seed // 3), 30 + 62 * (seed % 3)], color_of(seed))


def test_slerp_stays_on_the_sphere():
    a, b = (generate.latent(seed, (4, 128)) for seed in (1, 2))
    assert np.array_equal(generate.slerp(a, b, 0), a)
    assert np.array_equal(generate.slerp(a, b, 1), b)
    lengths = [np.linalg.norm(generate.slerp(a, b, t)) for t in np.linspace(0, 1, 11)]
    assert np.allclose(lengths, np.linspace(lengths[0], lengths[-1], 11), rtol=1e-5)
    steps = np.stack(
        [generate.slerp(a, b, t).ravel() / np.linalg.norm(generate.slerp(a, b, t)) for t in np.linspace(0, 1, 11)]
    )
    angles = np.arccos((steps[1:] * steps[:-1]).sum(1))
    assert np.allclose(angles, angles[0], rtol=1e-2)  # at one speed
    assert np.linalg.norm((a + b) / 2) < 0.8 * min(lengths)  # where a straight line would lead


@pytest.mark.parametrize("other", [1.0, 2.0, -1.0, 0.0])
def test_slerp_between_parallel_latents(other):
    a = generate.latent(1, (8,))
    middle = generate.slerp(a, other * a, 0.5)
    assert np.allclose(middle, (1 + other) / 2 * a, atol=1e-6)
    assert middle.dtype == np.float32


def test_a_walk_passes_through_its_seeds():
    points = [generate.latent(seed, (8,)) for seed in range(3)]
    steps = list(generate.walk(points, 5))
    assert len(steps) == 11
    for i in range(3):
        assert np.array_equal(steps[5 * i], points[i])
    closed = list(generate.walk(points, 5, loop=True))
    assert len(closed) == 15
    assert np.array_equal(closed[:10], steps[:10])
    assert np.array_equal(closed[14], generate.slerp(points[2], points[0], 0.8))


@pytest.mark.parametrize("name", ["walk.mp4", "walk.webm", "walk.webp", "walk.gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_walks(tmp_path, name, channels):
    av = pytest.importorskip("av")
    session = Plain(channels)
    count = generate.save_walk(session, [0, 1, 2], tmp_path / name, frames=6, fps=12, batch=4)
    assert count == 13
    assert session.batches == [4, 4, 4, 1]
    if name.endswith(("mp4", "webm")):
        with av.open(str(tmp_path / name)) as file:
            pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    else:
        pictures = []
        with Image.open(tmp_path / name) as image:
            for number in range(image.n_frames):
                image.seek(number)
                image.load()
                # What is the same twice is stored once, for twice as long.
                pictures += round(image.info["duration"] / (1000 / 12)) * [np.asarray(image.convert("RGB"))]
    assert len(pictures) == 13
    assert pictures[0].shape == (60, 60, 3)
    for i, seed in enumerate((0, 1, 2)):
        expected = color_of(seed) if channels == 3 else color_of(seed)[:1].repeat(3)
        assert np.abs(pictures[6 * i][30, 30] - expected).max() <= 8


def test_bad_input(tmp_path):
    upscaler = SimpleNamespace(spec=Spec("image", scale=2))
    for make in (
        lambda: generate.save_pictures(upscaler, [0], tmp_path),
        lambda: generate.save_sheet(upscaler, [0], tmp_path / "grid.png"),
        lambda: generate.save_walk(upscaler, [0, 1], tmp_path / "walk.webp", frames=2, fps=2),
    ):
        with pytest.raises(UsageError, match="model: expected a generator of pictures from latents"):
            make()
    with pytest.raises(UsageError, match="seeds: expected at least two to walk between, got 1"):
        generate.save_walk(Plain(), [3], tmp_path / "walk.webp", frames=2, fps=2)
    with pytest.raises(UsageError, match="seeds: expected at most 10,000 for one grid, got 10,001"):
        generate.save_sheet(Plain(), list(range(10_001)), tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"seed0000\.png could not be written: (File exists|Not a directory)"):
        generate.save_pictures(Plain(), [0], tmp_path / "file")


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
    assert re.match(r"9 pictures in a grid in \d+\.\d s \(.*CPU.*\): grid\.png\n$", done.stdout)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (3 * 58 + 2, 3 * 58 + 2, 3)
    done = command("run", model, "--seeds", "4", "--out", "pictures")
    assert done.returncode == 0, done.stderr
    one = np.asarray(Image.open(tmp_path / "pictures" / "seed0004.png"))
    assert np.array_equal(grid[60:116:2, 60:116:2], one)  # the same seed alone and among others
    assert one.std() > 5
    done = command("run", model, "--seeds", "1,5", "--out", "walk.mp4", "--frames", 10, "--loop")
    assert done.returncode == 0, done.stderr
    assert "a walk of 20 frames in" in done.stdout
    assert (tmp_path / "walk.mp4").stat().st_size > 1000
    for words, expected in (
        (["g.onnx", "--seeds", "x"], "seeds: expected numbers such as 0-63 or 1,5,9, got 'x'"),
        (["g.onnx", "--out", "a.txt"], "out: expected a folder, a .png, or one of .mp4"),
        (["g.onnx", "--frames", "0"], "frames: expected a number from 1 to 100000, got 0"),
        (["none.onnx"], "none.onnx"),
        ([], "run: expected MODEL.onnx first"),
    ):
        done = command("run", *words)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
