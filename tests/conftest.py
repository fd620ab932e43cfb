"""Shared by all tests: images small enough to train on in a moment, and the command line as a process."""

import os
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture
def images_npz(tmp_path):
    """A file of 200 grey 28×28 images with two kinds of content."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (200, 28, 28), dtype=np.uint8)
    images[::2, 8:20, 8:20] += 180
    path = tmp_path / "images.npz"
    np.savez(path, images=images)
    return path


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
