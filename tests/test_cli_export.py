"""fastgan export: the command."""

import json

import numpy as np
import pytest
from PIL import Image

from fastgan.cli import run
from fastgan.errors import UsageError
from fastgan.export.quantization.calibration import COUNT, CalibrationImages
from fastgan.runtime.spec import Spec

pytest.importorskip("onnx")

NETWORK = """
from torch import nn

class Sharpen(nn.Conv2d):
    scale, channels = 1, 3
    def __init__(self):
        super().__init__(3, 3, 3, padding=1)

def vocoder():
    return nn.Sequential(nn.Conv1d(8, 4, 3, padding=1), nn.ConvTranspose1d(4, 1, 4, 2, 1), nn.Tanh())

def overflowing():
    network = Sharpen()
    nn.init.constant_(network.bias, 1e5)
    return network
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path


def test_a_module_in_the_users_code_in_half_precision(here, capsys):
    assert run(["export", "net.py:Sharpen", "--precision", "fp16", "--out", "sharpen.onnx"]) == 0
    output = capsys.readouterr().out
    assert "sharpen.onnx: onnx, fp16, opset 18, 0.00 MB" in output
    assert "parity at batch  1, 57×49: max abs error" in output
    assert "parity at batch  3, 1×1: max abs error" in output
    assert "PSNR" in output
    assert "verified by ONNX Runtime, CPU, with every operator's result rounded" in output
    assert "ms for 128×128 at batch 1" in output
    report = json.loads((here / "sharpen.onnx.json").read_text())
    assert report["source"] == "net.py:Sharpen"
    assert report["precision"] == "fp16"


def test_a_vocoder_without_attributes(here, capsys):
    assert run(["export", "net.py:vocoder", "--out", "vocoder.onnx"]) == 0
    output = capsys.readouterr().out
    assert "signals [N, 8, T] → waveforms of 1 channels, 2 samples for each frame" in output
    assert "parity at batch  1, 57 frames: max abs error" in output
    assert "ms for 64 frames at batch 1" in output


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["nowhere", "--out", "x.onnx"], 2, "source: nowhere is no run, file of weights"),
        ([".", "--out", "x.onnx"], 2, "holds no run of fastgan"),
        (["net.py:Sharpen"], 2, "out: expected a file to write (--out FILE)"),
        (["net.py:Sharpen", "--out", "."], 2, "out: . cannot be written: it is a directory"),
        (["net.py:Sharpen", "--out", "net.py/x.onnx"], 2, "out: net.py/x.onnx cannot be written"),
        (["net.py:nothing", "--out", "x.onnx"], 2, "source: net.py has no 'nothing'"),
        (["net.py:Sharpen", "--precision", "int8", "--out", "x"], 2, "calibration: int8 needs images"),
        (["net.py:Sharpen", "--calibrate", ".", "--out", "x"], 2, "calibrate: is for --precision int8, got fp32"),
        (["net.py:Sharpen", "--precision", "int8", "--calibrate", ".", "--out", "x"], 2, "calibrate: expected an"),
        (["net.py:overflowing", "--precision", "fp16", "--out", "x"], 1, "overflows in fp16, at batch 1 of 57×49"),
    ],
)  # fmt: skip
def test_bad_input(here, capsys, words, code, sentence):
    assert run(["export", *words]) == code
    output = capsys.readouterr().err.strip().splitlines()
    assert output[-1].startswith("fastgan: ")
    assert sentence in output[-1]
    assert [path.name for path in here.iterdir() if path.name not in ("net.py", "__pycache__")] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("Missing from fastgan export", "SOURCE")),
        (["net.py:Sharpen", "--to", "tflite", "--out", "x"], ("invalid choice 'tflite'", "onnx")),
        (["net.py:Sharpen", "--precision", "fp8", "--out", "x"], ("invalid choice 'fp8'", "bf16")),
    ],
)
def test_errors_of_the_parser_are_its_own(here, capsys, words, expected):
    assert run(["export", *words]) == 2
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert all(each in printed for each in expected)


def test_help(capsys):
    assert run(["export", "--help"]) == 0
    output = capsys.readouterr().out
    for word in ("SOURCE", "checkpoint", "file.py:name", "--to", "tensorrt", "--precision", "bf16", "--calibrate"):
        assert word in output


def test_a_checkpoint_of_a_run(command, images_npz, tmp_path):
    words = ["--width", 4, "--latent", 8, "--batch", 8, "--steps", 4, "--checkpoint-every", 2, "--sample-every", 4]
    assert command("train", "demo", "--data", images_npz, "--out", "run", *words).returncode == 0
    done = command("export", "run/checkpoints/00000002", "--out", "early.onnx", "--precision", "bf16")
    assert done.returncode == 0, done.stderr
    assert "early.onnx: onnx, bf16, opset 22, 0.02 MB, from step 2" in done.stdout
    report = json.loads((tmp_path / "early.onnx.json").read_text())
    assert (report["step"], report["model"]) == (2, "dcgan")
    (tmp_path / "run" / "checkpoints" / "00000002" / "ema.safetensors").write_bytes(b"damaged")
    done = command("export", "run/checkpoints/00000002", "--out", "again.onnx")
    assert done.returncode == 1
    assert "ema.safetensors is damaged" in done.stderr


SPEC = Spec("image", channels=3, multiple=4, range=(-1.0, 1.0))


def test_calibration_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (270, 31, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    Image.new("L", (8, 9), 255).save(tmp_path / "a.webp", lossless=True)
    (tmp_path / "notes.txt").touch()
    found = CalibrationImages(tmp_path, SPEC)
    assert len(found) == 2
    for _ in range(2):  # again at every iteration
        white, picture = found
        assert white.shape == (1, 3, 8, 8)
        assert (white == 1).all()
        assert (picture.shape, picture.dtype) == ((1, 3, 256, 28), np.float32)
        expected = pixels[7:263, 1:29].transpose(2, 0, 1) / 127.5 - 1
        np.testing.assert_allclose(picture[0], expected, atol=1e-6)
    (gray,) = CalibrationImages(tmp_path / "b.png", Spec("image", channels=1, range=(0.0, 1.0)))
    assert gray.shape == (1, 1, 256, 31)


def test_calibration_images_of_a_large_folder_are_spread(tmp_path):
    for i in range(2 * COUNT + 5):
        (tmp_path / f"{i:04}.png").touch()
    names = [file.stem for file in CalibrationImages(tmp_path, SPEC).files]
    assert len(names) == COUNT
    assert names[:2] == ["0000", "0002"]


def test_calibration_images_that_are_none(tmp_path):
    with pytest.raises(UsageError, match=r"calibrate: expected an image or a folder of images, got .*: there is none"):
        CalibrationImages(tmp_path, SPEC)
    with pytest.raises(UsageError, match="there is no such file"):
        CalibrationImages(tmp_path / "missing.png", SPEC)
    (tmp_path / "a.png").write_bytes(b"\x89PNG no")
    with pytest.raises(UsageError, match=r"calibrate: .*a\.png cannot be read"):
        list(CalibrationImages(tmp_path, SPEC))
    Image.new("L", (3, 9)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png is 3×9; the network takes multiples of 4"):
        list(CalibrationImages(tmp_path, SPEC))
