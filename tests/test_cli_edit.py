"""fastgan project, edit and sample --mix, with a small generator with styles in a file of the user's."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fastgan.data.pixels import crop_resize

CODE = (Path(__file__).parent / "editing" / "conftest.py").read_text()


@pytest.fixture
def source(tmp_path):
    code = CODE.replace("import pytest\n", "").partition("@pytest.fixture")[0]
    (tmp_path / "nets.py").write_text(f"{code}\n\ndef make():\n    torch.manual_seed(0)\n    return Tiny()\n")
    return "nets.py:make"


def test_project_then_edit(cli, source, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    done = cli("project", source, "photo.png", "--steps", 20, "--perceptual", "random")
    assert done.returncode == 0, done.stderr
    assert "dB after 20 steps" in done.stdout
    with Image.open(tmp_path / "projected.png") as picture:
        shown = np.asarray(picture)
    target = np.asarray(crop_resize(Image.fromarray(pixels), 16))
    assert (shown[-18:-2, 2:18] == target).all()  # on the left the picture, on the right what the generator makes of it
    assert not (shown[-18:-2, 20:36] == target).all()
    stored = load_file(tmp_path / "projected.safetensors")
    assert stored["w"].shape == (1, 3, 5)
    assert sorted(stored)[0] == "noise/first.noise_const"

    done = cli(
        "edit", source, "--image", "projected.safetensors", "--method", "pca", "--directions", "0-2", "--strengths",
        "-2,0,2", "--out", "edit.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 directions by principal components of 10000 w" in done.stdout
    again = cli("project", source, "photo.png", "--steps", 2, "--perceptual", "none")
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_edit_by_examples_and_factorization(cli, source, tmp_path):
    done = cli("edit", source, "--method", "examples", "--positive", "1,2", "--negative", "3-5", "--strengths", "0,1")
    assert done.returncode == 0, done.stderr
    assert "mean of 2 examples minus that of 3" in done.stdout
    done = cli("edit", source, "--layers", "0-1", "--directions", "0", "--out", "other.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "other.png").is_file()


def test_the_edited_image_at_strength_0_is_that_of_the_seed(cli, source, tmp_path):
    cli("edit", source, "--image", "4", "--strengths", "0", "--directions", "0", "--out", "edit.png")
    cli("sample", source, "--mix", "4", "4", "--out", "mix.png")
    with Image.open(tmp_path / "edit.png") as edited, Image.open(tmp_path / "mix.png") as mixed:
        one, other = np.asarray(edited)[-66:-2, -66:-2], np.asarray(mixed)[-66:-2, -66:-2]
    assert (one == other).all()


def test_truncation_of_styles_goes_toward_the_mean(cli, source, tmp_path):
    def spread(*words):
        cli("sample", source, "--n", 16, "--out", "out", "--overwrite", *words)
        images = [np.asarray(Image.open(path), np.float32) for path in sorted((tmp_path / "out").glob("*.png"))]
        return np.stack(images).std(0).mean()

    full, half = spread(), spread("--truncation", 0.5)
    assert 0 < half < 0.8 * full


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["edit", "SOURCE", "--method", "examples"], "positive: give seeds"),
        (["edit", "SOURCE", "--positive", "1"], "positive: factorization takes no examples"),
        (["edit", "SOURCE", "--strengths", "a"], "strengths: expected numbers such as"),
        (["edit", "SOURCE", "--image", "0-3"], "image: expected one seed"),
        (["edit", "SOURCE", "--layers", "7"], "layers: expected numbers from 0 to 2, got 7"),
        (["edit", "SOURCE", "--image", "other.safetensors"], r"w of other.safetensors: expected \[N, 3, 5\]"),
        (["edit", "SOURCE", "--image", "noise.safetensors"], "has noise of another generator"),
        (["edit", "SOURCE", "--image", "wrong.safetensors"], "wrong.safetensors is no file of fastgan project"),
        (["project", "SOURCE", "wrong.safetensors"], "wrong.safetensors cannot be read as a picture"),
        (["project", "SOURCE", "photo.png", "--out", "a.npz"], "out: expected a .safetensors"),
        (["sample", "SOURCE", "--mix", "0", "1", "--out", "folder"], "out: expected a .png for a grid"),
        (["sample", "SOURCE", "--mix-layers", "0"], "mix_layers: they belong to --mix"),
    ],
)
def test_bad_input_is_named(cli, source, tmp_path, words, message):
    save_file({"w": torch.zeros(1, 4, 5)}, tmp_path / "other.safetensors")
    save_file({"w": torch.zeros(1, 3, 5), "noise/b": torch.zeros(4, 4)}, tmp_path / "noise.safetensors")
    (tmp_path / "wrong.safetensors").write_bytes(b"nothing")
    done = cli(*[source if word == "SOURCE" else word for word in words])
    assert done.returncode in (1, 2)
    assert re.search(message, done.stderr), done.stderr
