"""A pretrained network and a photograph, both from packages, from the command line to the file."""

import hashlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.cli import run
from fastgan.models import esrgan
from fastgan.upscale import pretrained, upscale_image
from fastgan.upscale.image.read import read

pytestmark = pytest.mark.network

SHA256 = "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A part of the cat of scikit-image 0.26, 150×100."""
    folder = tmp_path_factory.mktemp("photo")
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--quiet"]
    subprocess.run([*pip, "scikit-image==0.26.0"], cwd=folder, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read("skimage/data/chelsea.png")
    assert hashlib.sha256(data).hexdigest() == SHA256
    (folder / "whole.png").write_bytes(data)
    with Image.open(folder / "whole.png") as image:
        image.convert("RGB").crop((100, 60, 250, 160)).save(folder / "cat.png")
    return folder / "cat.png"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One cache for all: the package has 46 MB."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _shared_cache(_cache, models, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(models))


def pytorch(network, pixels):
    with torch.inference_mode():
        y = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0]
    return y.clamp(0, 1).permute(1, 2, 0).numpy() * 255


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_a_photograph_in_tiles_from_the_command_line(photo, tmp_path):
    """The default network reaches 18 pixels: tiles are exact, and the file is PyTorch's result, rounded."""
    assert run(["upscale", str(photo), str(tmp_path / "out.png"), "--tile", "64", "--device", "cpu"]) == 0
    expected = pytorch(esrgan.load(pretrained.KNOWN["realesr-animevideov3-x4"].path), read(photo).pixels)
    got = read(tmp_path / "out.png").pixels
    assert got.shape == (400, 600, 3)
    assert np.abs(got - expected).max() < 0.6
    assert psnr(got, expected) > 58  # rounding alone leaves 58.9


@pytest.mark.slow
def test_networks_that_reach_farther_than_their_margins(photo, tmp_path):
    """RRDBNet of 6 blocks reaches 94 pixels, margins have 64: no pixel is off by more than a level."""
    network = esrgan.load(pretrained.fetch("realesrgan-x4plus-anime")).eval()

    class Session:
        fixed, device, spec = None, "cpu", None

        def pixels(self, frames):
            return pytorch(network, frames[0].copy())[None].round().astype(np.uint8)

    from fastgan.runtime.spec import Spec

    Session.spec = Spec.of(network)
    with Image.open(photo.with_name("whole.png")) as image:
        image.convert("RGB").crop((0, 100, 440, 112)).save(tmp_path / "wide.png")
    upscale_image(Session(), tmp_path / "wide.png", tmp_path / "whole.png", tile=0)
    done = upscale_image(Session(), tmp_path / "wide.png", tmp_path / "tiles.png", tile=384)
    assert done["tiles"] == 2
    assert done["notes"] == []
    whole, tiles = (read(tmp_path / name).pixels.astype(int) for name in ("whole.png", "tiles.png"))
    assert np.abs(whole - tiles).max() <= 1
