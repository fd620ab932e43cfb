"""fastgan eval on runs, exported models and folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastgan.cli.sample import sample
from fastgan.errors import UsageError

from .test_cli import fails

#: An exported generator.
MODEL = Path(__file__).parent / "data_old" / "generator-mlp-0.1.0.onnx"
QUICK = ["--width", 4, "--latent", 8, "--batch", 8, "--steps", 2, "--log-every", 2, "--sample-every", 2,
         "--checkpoint-every", 2]  # fmt: skip


@pytest.fixture
def labeled_npz(tmp_path):
    """300 labeled gray 28×28 images of two kinds."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (300, 28, 28), dtype=np.uint8)
    images[::2, 8:20, 8:20] += 180
    path = tmp_path / "labeled.npz"
    np.savez(path, images=images, labels=np.arange(300) % 2)
    return path


def test_a_run_and_its_export(cli, labeled_npz, tmp_path):
    done = cli("train", "demo", "--data", labeled_npz, "--out", "run", "--held-out", 20, *QUICK)
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert 0 <= line["auroc/train_held_out"] <= 1
    done = cli("export", "run")
    assert done.returncode == 0, done.stderr
    words = ["--against", labeled_npz, "--n", 60, "--metrics", "fid,kid,pr,copies"]
    done = cli("eval", "run", *words)
    assert done.returncode == 0, done.stderr
    assert "60 samples of run at step 2 against labeled" in done.stdout
    assert "on 30 others" in done.stdout  # the classifier's own accuracy
    assert "warning: 60 samples are few" in done.stdout
    (kept,) = json.loads((tmp_path / "run" / "eval.json").read_text())
    rows = {row["name"]: row["value"] for row in kept["rows"]}
    protocol = kept["extractor"]
    assert protocol.startswith("digits-")
    assert rows[f"fid60_{protocol}"] > 0
    assert kept["step"] == 2
    assert kept["extractor_accuracy"] > 0.6

    done = cli("eval", "run/generator.onnx", *words, "--out", "onnx.json")
    assert done.returncode == 0, done.stderr
    onnx = json.loads((tmp_path / "onnx.json").read_text())
    for row in onnx["rows"]:  # the same latents, the same figures
        assert row["value"] == pytest.approx(rows[row["name"]], rel=0.02, abs=0.02), row

    # The same again replaces; other figures are kept beside.
    assert cli("eval", "run", *words).returncode == 0
    done = cli("eval", "run", *words[:-1], "spectral,c2st,cas")
    assert done.returncode == 0, done.stderr
    assert "cas30_test30_pseudolabels_cnn16" in done.stdout
    with Image.open(tmp_path / "run" / "c2st.png") as picture:
        assert min(picture.size) >= 56  # two rows and columns of images at least
    assert len(json.loads((tmp_path / "run" / "eval.json").read_text())) == 2
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"<td>fid60_{protocol}</td>" in page
    assert "60 samples of step 2 against 60 images of labeled" in page

    done = cli("sample", "run", "--n", 6, "--keep-best", 0.5, "--out", "best.png")
    assert done.returncode == 0, done.stderr
    assert "effect of keeping 0.5 of the samples: coverage 0." in done.stdout
    assert "300 real images), in features of a classifier trained on 270 images" in done.stdout
    assert (tmp_path / "best.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [str(MODEL), "--keep-best", "0.5"],
            f"keep_best: samples are ranked by the discriminator, which {MODEL} does not contain; give its run",
        ),
        (["run", "--keep-best", "1"], "keep_best: expected a fraction from 0.01 to below 1, got 1.0"),
    ],
)
def test_what_cannot_be_kept(words, message):
    with pytest.raises(UsageError, match=message):
        sample(words)


def test_a_folder_of_another_size(cli, labeled_npz, tmp_path):
    (tmp_path / "samples").mkdir()
    for i, image in enumerate(np.random.default_rng(1).integers(0, 256, (12, 14, 14), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / "samples" / f"{i}.png")
    done = cli("eval", "samples", "--against", labeled_npz, "--metrics", "spectral,copies")
    assert done.returncode == 0, done.stderr
    assert "spectral12_ref300_db" in done.stdout
    assert "the real images were [1, 28, 28]; cropped and resized (LANCZOS) to [1, 14, 14]" in done.stdout
    assert "duplicates12_ref300_pixels16" in done.stdout
    assert "extractor" not in done.stdout  # none was needed


def test_bad_words(cli, labeled_npz, tmp_path):
    fails(cli("eval", labeled_npz), 2, "Missing from fastgan eval: --against STR")
    fails(cli("eval"), 2, "required")
    fails(cli("eval", labeled_npz, "--against", labeled_npz, "--metrics", "fod"), 2, "expected some of fid, kid")
    fails(cli("eval", labeled_npz, "--against", labeled_npz, "--extractor", "vgg"), 2, "a file of weights, got")
    fails(cli("eval", "nowhere", "--against", labeled_npz), 1, "no such source")
    (tmp_path / "weights.pth").write_bytes(b"x")
    fails(
        cli("eval", labeled_npz, "--against", labeled_npz, "--extractor", "weights.pth"),
        1,
        "weights.pth is not a readable weight file",
    )
    done = cli("eval", "--help")
    assert done.returncode == 0
    assert "--against" in done.stdout
