"""fastgan export --pair, and sample, edit, run and eval with its files: the same pictures as with the module."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.editing import Directions, ExportedGenerator, principal_components
from fastgan.editing.styles import images_of, w_of_seeds
from fastgan.export import export_pair
from fastgan.runtime.pair import StylePair

pytest.importorskip("onnxscript")

CODE = """
import torch
from fastgan.models.stylegan.stylegan2 import Generator
from fastgan.testing.stylegan import randomize

def make():
    torch.manual_seed(0)
    small = {"channel_base": 128, "channel_max": 8, "mapping_kwargs": {"num_layers": 2}}
    generator = randomize(Generator(8, 3, 8, 16, 3, **small))
    with torch.no_grad():
        for name, one in generator.named_parameters():
            if "torgb.weight" in name:
                one.mul_(0.3)  # images mostly within [-1, 1]
    return generator
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The paths of the module and of one file of its pair."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "nets.py").write_text(CODE)
    space: dict = {}
    exec(CODE, space)
    export_pair(space["make"](), folder / "g.onnx", about={"class_names": ["a", "b", "c"]})
    return f"{folder / 'nets.py'}:make", folder / "g.synthesis.onnx"


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def frames(path):
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append(np.asarray(image.convert("RGB"), np.int16))
    return found


def both(cli, files, before, after):
    """Runs a command with the module and with the pair; the names of their pictures."""
    written = []
    for source, name in zip(files, ("module.png", "pair.png"), strict=True):
        done = cli(*before, source, *after, "--out", name)
        assert done.returncode == 0, done.stderr
        written.append(name)
    return written


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["sample"], ["--n", 9, "--truncation", 0.6]),
        (["sample"], ["--seeds", "0-3,9", "--truncation", 0.5]),
        (["sample"], ["--seeds", "0-3", "--class", 1]),
        (["sample"], ["--mix", "0-1", "4-6", "--mix-layers", "0-2", "--truncation", 0.7]),
        (
            ["edit"],
            ["--image", 3, "--method", "pca", "--directions", "0-2", "--strengths", "-2,0,2", "--layers", "0-3"],
        ),
        (["edit"], ["--method", "examples", "--positive", "1,2", "--negative", "3-5", "--truncation", 0.8]),
    ],
)
def test_the_same_pictures_as_of_the_module(cli, files, tmp_path, before, after):
    one, other = (pixels(tmp_path / name) for name in both(cli, files, before, after))
    assert one.shape == other.shape
    if "--n" in after:  # above the grid the pair's names of its classes, which a module does not know
        one, other = one[-200:], other[-200:]
    assert np.abs(one - other).max() <= 1  # a rounding of bytes
    assert one.std() > 10


def test_directions_are_saved_by_the_module_for_the_pair(cli, files, tmp_path):
    module, pair = files
    done = cli("edit", module, "--save", "found.safetensors", "--directions", "0-1", "--out", "module.png")
    assert done.returncode == 0, done.stderr
    done = cli("edit", pair, "--method", "found.safetensors", "--out", "pair.png")
    assert done.returncode == 0, done.stderr
    assert "2 directions by factorization of the style layers" in done.stdout
    assert np.abs(pixels(tmp_path / "module.png") - pixels(tmp_path / "pair.png")).max() <= 1


def test_a_projected_image_keeps_its_noise(cli, files, tmp_path):
    module, pair = files
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    done = cli(
        "project", module, "p.png", "--steps", 4, "--perceptual", "none", "--out", "a.safetensors", "--overwrite"
    )
    assert done.returncode == 0, done.stderr
    edit = ["--image", "a.safetensors", "--method", "pca", "--directions", "0", "--strengths", "-1,0,1"]
    one, other = (pixels(tmp_path / name) for name in both(cli, files, ["edit"], edit))
    assert np.abs(one - other).max() <= 1
    without = cli("edit", pair, "--image", 0, *edit[2:], "--out", "without.png")
    assert without.returncode == 0
    done = cli("project", pair, "p.png", "--out", "b.safetensors")
    assert done.returncode == 2
    assert "projection needs gradients" in done.stderr


@pytest.mark.parametrize("how", ["spherical", "linear", "w"])
@pytest.mark.parametrize("loop", [False, True])
def test_walks(cli, files, tmp_path, how, loop):
    words = ["--seeds", "0-2", "--frames", 5, "--fps", 25, "--truncation", 0.7, "--interpolate", how]
    found = []
    for source, name in zip(files, ("module.webp", "pair.webp"), strict=True):
        done = cli("sample", source, *words, *["--loop"] * loop, "--out", name)
        assert done.returncode == 0, done.stderr
        assert f"a walk of {15 if loop else 11} frames" in done.stdout
        found.append(frames(tmp_path / name))
    one, other = found
    assert len(one) == len(other) == (15 if loop else 11)
    assert max(np.abs(a - b).max() for a, b in zip(one, other, strict=True)) <= 16  # lossy files of nearly equal frames
    steps = [np.abs(a - b).mean() for a, b in zip(one, [*one[1:], one[0]], strict=True)]
    closing = steps.pop()
    assert min(steps) > 0
    if loop:  # the last frame is not the first one again, but leads to it
        assert 0 < closing < 2 * max(steps)


def test_walks_pass_through_their_seeds_each_of_its_class(cli, files, tmp_path):
    _, pair = files
    for how in ("w", "linear"):
        done = cli("sample", pair, "--seeds", "3,4", "--frames", 4, "--interpolate", how, "--out", f"{how}.webp")
        assert done.returncode == 0, done.stderr
    cli("sample", pair, "--seeds", "3,4", "--out", "seeds")
    cli("sample", pair, "--seeds", "4", "--class", "a", "--out", "first")  # 3 % 3 is class a
    scaled = [
        pixels(tmp_path / name).repeat(4, 0).repeat(4, 1) for name in ("seeds/seed0004.png", "first/seed0004.png")
    ]
    ends = {how: frames(tmp_path / f"{how}.webp")[-1] for how in ("w", "linear")}
    apart = np.abs(scaled[0] - scaled[1]).mean()
    for how, own in (("w", scaled[0]), ("linear", scaled[1])):
        assert np.abs(ends[how] - own).mean() < apart / 4  # the video's quantization


def test_run_takes_the_pair(cli, files, tmp_path):
    module, pair = files
    done = cli("run", pair, "--seeds", "0-3", "--out", "run.png")
    assert done.returncode == 0, done.stderr
    cli("sample", module, "--seeds", "0-3", "--out", "sample.png")
    assert np.abs(pixels(tmp_path / "run.png") - pixels(tmp_path / "sample.png")).max() <= 1
    done = cli("inspect", pair)
    assert "synthesis network: w [N, 6, 8], noise_strength [N], noise [N, 656] → images" in done.stdout


@pytest.mark.full  # seconds for each file
def test_the_command_writes_the_pair_and_its_figures(cli, files, tmp_path):
    done = cli("export", files[0], "--pair", "--out", "p.onnx")
    assert done.returncode == 0, done.stderr
    for half in ("mapping", "synthesis"):
        assert (tmp_path / f"p.{half}.onnx").is_file()
        assert re.search(rf"p\.{half}\.onnx: onnx, fp32, opset 18", done.stdout)


def test_the_users_files_are_not_replaced(cli, files, tmp_path):
    (tmp_path / "q.synthesis.onnx").write_text("the user's")
    done = cli("export", files[0], "--pair", "--out", "q.onnx")
    assert done.returncode == 2
    assert "q.synthesis.onnx exists" in done.stderr
    assert (tmp_path / "q.synthesis.onnx").read_text() == "the user's"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "PAIR", "--out", "a.mp4"], "seeds: a walk needs the seeds"),
        (["sample", "PAIR", "--interpolate", "w"], "seeds: a walk needs the seeds"),
        (["sample", "PAIR", "--seeds", "0", "--out", "a.webp"], "seeds: expected at least two to walk between"),
        (["sample", "PAIR", "--seeds", "0-1", "--loop"], "out: expected a video for a walk"),
        (["sample", "PAIR", "--seeds", "0-1", "--out", "a.webp", "--frames", 0], "frames: expected a number from 1"),
        (["sample", "PAIR", "--seeds", "0-1", "--truncation", -1], "truncation: expected a number > 0"),
        (["sample", "PAIR", "--seeds", "0-1", "--mix", "0", "1"], "mix: it draws its own images"),
        (["sample", "PAIR", "--seeds", "0-1", "--class", "d"], "class: expected a number from 0 to 2 or a name"),
        (["edit", "PAIR"], "method: an exported file does not list the weights that factorization needs"),
        (["edit", "PAIR", "--method", "lda"], "method: expected factorization, pca, examples or a file of --save"),
        (["edit", "PAIR", "--method", "w.safetensors"], "w.safetensors is no file of directions: it has no scales"),
        (["edit", "PAIR", "--method", "other.safetensors"], "of a generator whose w has 5 numbers, this one's has 8"),
        (["edit", "PAIR", "--method", "pca", "--truncation", "nan"], "truncation: expected a number > 0"),
        (["edit", "PAIR", "--method", "pca", "--save", "a.npz"], "save: expected a .safetensors"),
        (["edit", "whole.onnx", "--method", "pca"], "give its two halves, of fastgan export --pair"),
        (["sample", "alone.mapping.onnx"], "needs the other half of its pair beside it, alone.synthesis.onnx"),
        (["export", "nets.py:linear", "--pair", "--out", "a.onnx"], "pair: expected a generator with mapping"),
        (
            ["export", "nets.py:linear", "--pair", "--to", "triton", "--out", "a"],
            "to: a pair is exported to onnx or aoti",
        ),
    ],
)
def test_bad_input_is_named(cli, files, tmp_path, words, message):
    (tmp_path / "nets.py").write_text("import torch\nlinear = torch.nn.Linear(2, 2)\n")
    Directions(torch.eye(5)[:2], torch.ones(2), (0,), "axes").save(tmp_path / "other.safetensors")
    from safetensors.torch import save_file

    save_file({"vectors": torch.eye(8)}, tmp_path / "w.safetensors")
    (tmp_path / "alone.mapping.onnx").write_bytes(files[1].with_name("g.mapping.onnx").read_bytes())
    (tmp_path / "whole.onnx").touch()
    done = cli(*[files[1] if word == "PAIR" else word for word in words])
    assert done.returncode in (1, 2)
    assert re.search(re.escape(message), done.stderr), done.stderr


def test_from_python(files):
    space: dict = {}
    exec(CODE, space)
    generator = space["make"]().eval().requires_grad_(False)
    exported = ExportedGenerator(StylePair.open(files[1], backend="onnxruntime"))
    w = w_of_seeds(exported, [0, 5], psi=0.7)
    torch.testing.assert_close(w, w_of_seeds(generator, [0, 5], psi=0.7), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(images_of(exported, w, {}), images_of(generator, w, {}), rtol=1e-4, atol=1e-4)
    one, other = (principal_components(g, count=2, samples=300) for g in (exported, generator))
    torch.testing.assert_close(one.vectors, other.vectors, rtol=1e-2, atol=1e-3)
