"""Every example runs, and prints or writes what it promises."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, tmp_path):
    done = subprocess.run([sys.executable, EXAMPLES / name, "3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_networks(tmp_path):
    run("own_networks.py", tmp_path)
    assert list(tmp_path.glob("*.png"))


def test_own_task(tmp_path):
    run("own_task.py", tmp_path)
    with Image.open(tmp_path / "discs_by_radius.png") as sheet:
        assert sheet.size == (8 * 66 + 2, 4 * 66 + 2)


def test_translate(tmp_path):
    run("translate.py", tmp_path)
    with Image.open(tmp_path / "outlines.png") as sheet:
        assert sheet.size == (12 * 58 + 2, 3 * 58 + 2)


def test_degrade(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (200, 220, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    done = subprocess.run([sys.executable, EXAMPLES / "degrade.py", "photo.png"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "degraded.png") as sheet:
        assert sheet.size == (4 * 196 - 4, 2 * 196 - 4)


def test_fuse_a_discriminator(tmp_path):
    output = run("fuse_a_discriminator.py", tmp_path)
    assert "fused: stack of 4: conv + leaky_relu" in output
    assert "gradients equal to" in output


def test_compile_a_step(tmp_path):
    assert "34 eagerly, 34 captured, 28 after removing zeros" in run("compile_a_step.py", tmp_path)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_run_here(path):
    assert path.name in Path(__file__).read_text()
