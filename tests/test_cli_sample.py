"""fastgan sample: grids and folders, truncation, checkpoints, and networks of one's own."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastgan import Config, Trainer
from fastgan.cli import run
from fastgan.runtime.session import latents
from fastgan.train import checkpoint
from fastgan.train.networks import load_generator

OWN = """
import torch
from torch import nn

class Generator(nn.Module):
    latent, range = 4, (0.0, 1.0)
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3 * 64)
    def forward(self, z):
        return torch.sigmoid(self.linear(z)).view(-1, 3, 8, 8)

def make():
    return Generator()

def trained():
    torch.manual_seed(0)
    return Generator()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


@pytest.fixture
def named(folder):
    """A run of networks that are built by name, with checkpoints of two steps."""
    config = {"width": 4, "latent": 8, "batch": 8, "steps": 2, "log_every": 1, "checkpoint_every": 1, "compile": "off"}
    words = [word for name, value in config.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert run(["train", "mlp", "--out", "run", *words]) == 0
    return folder / "run"


@pytest.fixture
def own(folder):
    """A run of networks of one's own."""
    space = {}
    exec(OWN, space)
    config = Config.from_flags(steps=2, log_every=1, batch=4, compile="off")
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    Trainer(space["make"](), discriminator, config=config, out=folder / "mine").fit([torch.rand(4, 3, 8, 8)])
    return folder / "mine"


def pictures(folder):
    return [np.asarray(Image.open(path)).astype(int) for path in sorted(folder.iterdir())]


def test_separate_files_in_a_folder(named, folder, capsys):
    assert run(["sample", "run", "--n", "5", "--out", "images"]) == 0
    files = sorted(path.name for path in (folder / "images").iterdir())
    assert files == [f"sample{i:04d}.png" for i in range(5)]
    trained = load_generator(named)
    expected = trained.generator(torch.from_numpy(latents(5, (8,), 0)))
    for picture, image in zip(pictures(folder / "images"), expected, strict=True):
        assert picture.shape == (28, 28, 3)
        assert np.abs(picture[:, :, 0] - ((image[0].numpy() + 1) * 127.5)).max() <= 1
    assert run(["sample", "run", "--n", "6", "--out", "images"]) == 2
    assert "out: images/sample0000.png exists; --overwrite replaces it" in capsys.readouterr().err
    assert len(list((folder / "images").iterdir())) == 5
    assert run(["sample", "run", "--out", "images.jpg"]) == 2
    assert "out: expected a .png or a folder, got images.jpg" in capsys.readouterr().err


def test_a_checkpoint_of_a_run(named, folder):
    for source, out in (("run", "a"), ("run/checkpoints/00000002", "b"), ("run/checkpoints/00000001", "c")):
        assert run(["sample", source, "--n", "2", "--out", out]) == 0
    a, b, c = (np.stack(pictures(folder / name)) for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_truncation(named, folder, capsys):
    assert run(["sample", "run", "--n", "8", "--out", "plain"]) == 0
    assert run(["sample", "run", "--n", "8", "--truncation", "1e-3", "--out", "same"]) == 0
    assert run(["sample", "run", "--n", "8", "--truncation", "100", "--out", "wide"]) == 0
    plain, same, wide = (np.stack(pictures(folder / name)) for name in ("plain", "same", "wide"))
    assert np.array_equal(plain, wide)
    assert np.abs(same - same[:1]).max() <= 1
    assert np.abs(plain - plain[:1]).max() > 1
    assert run(["sample", "run", "--truncation", "0"]) == 2
    assert "truncation: expected a number > 0, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(("threshold", "deviation"), [(0.5, 0.2867), (1.0, 0.5396), (2.0, 0.8796), (3.0, 0.9866)])
def test_truncated_latents_have_the_distribution(threshold, deviation):
    z = latents(400, (100,), 3, threshold)
    assert np.abs(z).max() <= threshold
    assert z.std() == pytest.approx(deviation, rel=0.01)
    assert z.mean() == pytest.approx(0, abs=0.01)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, latents(400, (100,), 3, threshold))
    inside = np.abs(latents(400, (100,), 3)) <= threshold
    np.testing.assert_array_equal(z[inside], latents(400, (100,), 3)[inside])


def test_a_run_of_networks_of_ones_own(own, folder, capsys):
    assert run(["sample", "mine", "--out", "images", "--n", "3"]) == 2
    message = "fastgan cannot build them; give the code that builds the generator (--network file.py:make"
    assert message in capsys.readouterr().err
    assert run(["sample", "mine", "--network", "own.py:make", "--out", "images", "--n", "3"]) == 0
    space = {}
    exec(OWN, space)
    generator = space["make"]()
    checkpoint.load_network(generator, own / "checkpoints" / "00000002", "ema")
    expected = generator(torch.from_numpy(latents(3, (4,), 0))).detach().numpy()
    for picture, image in zip(pictures(folder / "images"), expected, strict=True):
        assert np.abs(picture - image.transpose(1, 2, 0) * 255).max() <= 1
    for words, message in (
        (["--network", "own.py"], "network: expected file.py:name"),
        (["--network", "own.py:nothing"], "own.py has no 'nothing'"),
        (["--network", "own.py:make", "--keep-best", "0.5"], "is your own, fastgan cannot build it"),
    ):
        assert run(["sample", "mine", *words]) == 2
        assert message in capsys.readouterr().err
    words = ["--network", "own.py:make", "--against", "images", "--n", "3", "--metrics", "psnr"]
    assert run(["eval", "mine", *words]) == 0
    row = json.loads((own / "eval.json").read_text())[0]["rows"][0]
    assert row["value"] > 40  # the same images, as they were written


def test_a_module_with_its_weights(folder, capsys):
    assert run(["sample", "own.py:trained", "--out", "images", "--n", "2"]) == 0
    space = {}
    exec(OWN, space)
    expected = space["trained"]()(torch.from_numpy(latents(2, (4,), 0))).detach().numpy()
    for picture, image in zip(pictures(folder / "images"), expected, strict=True):
        assert np.abs(picture - image.transpose(1, 2, 0) * 255).max() <= 1
    assert run(["sample", "own.py:trained", "--network", "own.py:make"]) == 2
    assert "network: it is the code of a run's generator, and own.py:trained is no run" in capsys.readouterr().err


def test_the_network_of_a_run_that_names_its_own(named, capsys):
    (named.parent / "own.py").write_text(OWN)
    assert run(["sample", "run", "--network", "own.py:make"]) == 2
    assert "network: the networks of run are built by name; leave it out" in capsys.readouterr().err


def test_names_of_classes_are_on_the_grids(folder):
    labels = np.arange(16) % 2
    images = np.zeros((16, 1, 28, 28), np.uint8)
    for i, name in enumerate(("cat", "dog")):
        (folder / "set" / name).mkdir(parents=True)
        for j in np.flatnonzero(labels == i):
            Image.fromarray(images[j, 0] + np.uint8(j)).save(folder / "set" / name / f"{j}.png")
    options = {"condition": "concat", "width": 4, "latent": 4, "batch": 8, "log-every": 1, "compile": "off", "steps": 1}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert run(["train", "mlp", "--data", "set", "--out", "run", *words]) == 0
    grid = np.asarray(Image.open(folder / "run" / "samples" / "classes-00000001.png"))
    plain_width = 8 * (2 * 28 + 2) + 2
    column = grid[:, : grid.shape[1] - plain_width]
    assert column.shape[1] > 10
    assert (column < 128).any()  # something is written there
    for name in ("cat", "dog"):
        assert run(["sample", "run", "--class", name, "--n", "4", "--out", f"{name}.png"]) == 0
    cat, dog = (np.asarray(Image.open(folder / f"{name}.png")) for name in ("cat", "dog"))
    assert cat.shape == dog.shape
    assert (cat[:16] != dog[:16]).any()
    assert (cat[:16] < 128).any()


def test_an_unconditional_grid_has_no_line_of_text(named, folder):
    assert run(["sample", "run", "--n", "4", "--out", "a.png"]) == 0
    side = 2 * (2 * 28 + 2) + 2
    assert np.asarray(Image.open(folder / "a.png")).shape == (side, side, 3)
