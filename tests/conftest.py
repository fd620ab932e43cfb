"""Shared by all tests: images small enough to train on in seconds, and the command line, in this process or its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest_plugins = ["fixtures_networks"]


@pytest.fixture
def images_npz(tmp_path):
    """A file of 200 gray 28×28 images with two kinds of content."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (200, 28, 28), dtype=np.uint8)
    images[::2, 8:20, 8:20] += 180
    path = tmp_path / "images.npz"
    np.savez(path, images=images)
    return path


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs `fastgan ...` in this process, in tmp_path, and returns what `command` does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))

    def run(*words):
        from fastgan import cli

        capsys.readouterr()
        code = cli.run([str(word) for word in words])
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return run


@pytest.fixture
def command(tmp_path):
    """Runs `fastgan ...` in a process of its own, in tmp_path, and returns the completed process."""

    def run(*words, env=None, timeout=300):
        return subprocess.run(
            [sys.executable, "-m", "fastgan", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "FASTGAN_CACHE": str(tmp_path / "cache"), **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """pretrained(name): the file of one of fastgan.upscale.pretrained's networks, fetched once (marker network)."""
    folder = tmp_path_factory.mktemp("pretrained")

    def path(name):
        from fastgan.upscale.pretrained import fetch

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FASTGAN_CACHE", str(folder))
            return fetch(name)

    return path


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A photograph of a Chinese temple, uint8 [427, 640, 3], out of the package scikit-learn (marker network).

    china.jpg by danielbuechele, CC-BY-2.0 (https://www.flickr.com/photos/danielbuechele/6061409035/).
    """
    from PIL import Image

    from fastgan._util.packages import Package, download

    name = "sklearn/datasets/images/china.jpg"
    sha256 = "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"
    package = Package("pip", "scikit-learn", "1.9.1", 9, 1, {name: sha256})
    root, _ = download(package, tmp_path_factory.mktemp("photo"))
    return np.asarray(Image.open(root / name))


@pytest.fixture
def run_ncnn():
    """run_ncnn(param, image float32 [C, H, W]): what ncnn's own runtime makes of it on the CPU, in float32."""
    ncnn = pytest.importorskip("ncnn", reason="ncnn, the runtime to compare with, is not installed")

    def run(param, image):
        net = ncnn.Net()
        net.opt.num_threads = 1
        net.opt.use_vulkan_compute = False
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{option}", False)
        assert net.load_param(str(param)) == 0
        assert net.load_model(str(param.with_suffix(".bin"))) == 0
        extractor = net.create_extractor()
        image = np.ascontiguousarray(image, np.float32)  # has to live: the Mat only points to it
        extractor.input("data", ncnn.Mat(image))
        code, out = extractor.extract("output")
        assert code == 0
        return np.array(out)

    return run
