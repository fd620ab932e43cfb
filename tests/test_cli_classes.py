"""A conditional run and its export on the command line: the same images, of the requested classes."""

import numpy as np
import pytest
from PIL import Image

from fastgan.cli import run
from fastgan.errors import UsageError
from fastgan.runtime import Session

QUICK = ["--width", "4", "--latent", "8", "--batch", "8", "--steps", "6", "--log-every", "6", "--sample-every", "6",
         "--checkpoint-every", "6"]  # fmt: skip
ONNX = "run/generator.onnx"


def picture(path):
    return np.asarray(Image.open(path)).astype(int)


def test_a_conditional_run_and_its_export(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))
    assert run(["train", "mlp", "--condition", "concat", "--out", "run", *QUICK]) == 0
    assert (tmp_path / "run" / "samples" / "classes-00000006.png").exists()
    assert run(["export", "run"]) == 0
    assert "T-shirt/top, Trouser, Pullover" in (tmp_path / "run" / "report.html").read_text()
    assert Session(ONNX, backend="onnxruntime").about["class_names"][9] == "Ankle boot"

    grids = []
    for words in ((), ("--class", "3")):
        for source, out in (("run", "torch.png"), (ONNX, "onnx.png")):
            assert run(["sample", source, "--n", "20", "--out", out, "--overwrite", *words]) == 0
            grids.append(picture(out))
    assert np.abs(grids[0] - grids[1]).max() <= 1
    assert np.abs(grids[2] - grids[3]).max() <= 1
    assert np.abs(grids[0] - grids[2]).max() > 10

    for source, out in (("run", "torch.png"), (ONNX, "onnx.png")):
        assert run(["sample", source, "--n", "20", "--out", out, "--class", "Dress", "--overwrite"]) == 0
        assert "20 images of class 3 ('Dress') in" in capsys.readouterr().out
        assert np.abs(grids[2] - picture(out)).max() <= 1
    session, z = Session(ONNX, backend="onnxruntime"), np.zeros((2, 8), np.float32)
    assert session.class_names[3] == "Dress"
    np.testing.assert_array_equal(session(z, ["Dress", 4]), session(z, np.array([3, 4])))
    with pytest.raises(UsageError, match=r"got float32 \[2, 10\]; of one-hot rows take y.argmax\(1\)"):
        session(z, np.zeros((2, 10), np.float32))

    assert run(["run", ONNX, "--seeds", "0-9", "--class", "Dress", "--out", "threes"]) == 0
    assert "10 images of class 3 ('Dress')" in capsys.readouterr().out
    assert run(["run", ONNX, "--seeds", "3,4", "--out", "own"]) == 0
    assert len(list((tmp_path / "threes").iterdir())) == 10
    for seed, same in ((3, True), (4, False)):
        one, other = picture(f"threes/seed{seed:04d}.png"), picture(f"own/seed{seed:04d}.png")
        assert (np.abs(one - other).max() <= 1) == same

    assert run(["bench", ONNX, "--backends", "onnxruntime", "--batches", "1,20", "--seconds", "0.01"]) == 0
    for source in ("run", ONNX):
        assert run(["eval", source, "--against", "embedded", "--metrics", "cas", "--n", "200"]) == 0
    assert capsys.readouterr().out.count("cas100_test100_cnn16") == 2  # not "taught": by the requested labels

    for words, message in (
        (["sample", "run", "--class", "10"], "class: expected a number from 0 to 9 or a name, got 10"),
        (["sample", ONNX, "--class", "-1"], "class: expected a number from 0 to 9 or a name, got -1"),
        (["run", ONNX, "--class", "10"], "class: expected a number from 0 to 9 or a name, got 10"),
        (["run", ONNX, "--class", "coat"], "got 'coat'; unknown name 'coat'; did you mean 'Coat'?"),
        (["sample", "run", "--keep-best", "0.5"], "condition is concat"),
    ):
        assert run(words) == 2
        assert message in capsys.readouterr().err
