"""No file that is there is replaced without --overwrite, and a source never, not even through links."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from fastgan.errors import UsageError
from fastgan.report.load import is_run
from fastgan.train import rundir


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def network(tmp_path):
    """net.py:make, a generator from latents of 2, and weights of a network from images to images."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    network = nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.ConvTranspose2d(2, 1, 4), nn.Tanh())\n"
        "    network.latent = 2\n    return network\n"
    )
    return "net.py:make"


def test_export(cli, network, tmp_path):
    (tmp_path / "g.onnx").write_text("the user's")
    (tmp_path / "h.onnx.json").write_text('{"file": "h.onnx"}')
    before = snapshot(tmp_path)
    for out, existing in (("g.onnx", "g.onnx"), ("h.onnx", "h.onnx.json")):
        done = cli("export", network, "--out", out)
        assert (done.returncode, done.stderr) == (2, f"fastgan: out: {existing} exists; --overwrite replaces it\n")
    (tmp_path / "link.onnx").symlink_to("net.py")
    (tmp_path / "hard.onnx").hardlink_to(tmp_path / "net.py")
    for out in ("net.py", "link.onnx", "hard.onnx"):
        done = cli("export", network, "--out", out, "--overwrite")
        assert done.returncode == 2
        assert f"out: {out} is the source itself (net.py); choose another file" in done.stderr
    for name in ("link.onnx", "hard.onnx"):
        (tmp_path / name).unlink()
    assert snapshot(tmp_path) == before
    assert cli("export", network, "--out", "g.onnx", "--overwrite").returncode == 0
    # An earlier export is fastgan's own.
    assert cli("export", network, "--out", "g.onnx").returncode == 0
    assert json.loads((tmp_path / "g.onnx.json").read_text())["file"] == "g.onnx"


WORDS = {
    "sample": (["sample", "g.onnx", "--n", 4], "--out"),
    "run": (["run", "g.onnx", "--seeds", "0-3"], "--out"),
    "bench out": (["bench", "g.onnx", "--seconds", "0.01", "--batches", 1, "--backends", "onnxruntime"], "--out"),
    "bench plot": (["bench", "g.onnx", "--seconds", "0.01", "--batches", 1, "--backends", "onnxruntime"], "--plot"),
    "eval": (["eval", "embedded", "--against", "embedded", "--metrics", "spectral", "--n", 50], "--out"),
    "data": (["data", "info", "embedded"], "--out"),
    "compare": (["compare", "a", "b"], "--out"),
}


@pytest.mark.parametrize("command", WORDS)
def test_other_commands(cli, tmp_path, command):
    words, flag = WORDS[command]
    suffix = {"bench out": ".csv", "bench plot": ".svg", "eval": ".json", "compare": ".html"}.get(command, ".png")
    path = tmp_path / f"mine{suffix}"
    path.write_text("the user's")
    (tmp_path / "g.onnx").write_text("no model: it is not opened")
    done = cli(*words, flag, path.name)
    name = flag.removeprefix("--")
    assert (done.returncode, done.stdout) == (2, "")
    if command == "compare":
        (tmp_path / "a").mkdir()
    assert f"{name}: {path.name} exists; --overwrite replaces it" in done.stderr
    assert path.read_text() == "the user's"
    if command in ("eval", "data"):
        assert cli(*words, flag, path.name, "--overwrite").returncode == 0
        assert path.read_bytes() != b"the user's"


def test_a_model_is_not_written_over(cli, tmp_path):
    (tmp_path / "g.onnx").write_text("model")
    (tmp_path / "link.png").symlink_to("g.onnx")
    for words in (["sample", "g.onnx"], ["run", "g.onnx"]):
        done = cli(*words, "--out", "link.png", "--overwrite")
        assert done.returncode == 2
        assert "link.png is the source itself (g.onnx)" in done.stderr
    assert (tmp_path / "g.onnx").read_text() == "model"


def test_a_folder_of_another_program_is_no_run(cli, tmp_path):
    other = tmp_path / "other"
    (other / "samples").mkdir(parents=True)
    (other / "samples" / "take-00000001.wav").write_text("hours of work")
    (other / "report.html").write_text("the user's")
    for content in ("{}", '{"config": {}}', '{"environment": {"fastgan": 1}}', "[1]", "no JSON", '"config"'):
        (other / "config.json").write_text(content)
        before = snapshot(other)
        for flag in ("--overwrite", "--resume"):
            with pytest.raises(UsageError, match="holds no run of fastgan"):
                rundir.check(other, resume=flag == "--resume", overwrite=flag == "--overwrite")
        with (
            pytest.raises(UsageError, match="holds no run of fastgan"),
            rundir.prepared(other, resume=False, overwrite=True),
        ):
            pass
        assert cli("report", "other").returncode != 0
        assert snapshot(other) == before


def test_overwriting_a_run_keeps_what_no_run_writes(tmp_path):
    run = tmp_path / "run"
    ours = [
        "config.json", "status.json", "metrics.jsonl", "layers.json", "report.html", "eval.json", "c2st.png",
        "samples/fixed-00000010.png", "samples/real.png", "samples/fixed.webp", "samples/my-grid-00000010.png",
        "checkpoints/00000010/ema.safetensors", "checkpoints/.00000008.old/ema.safetensors",
        "tensorboard/events.out.tfevents.1.host", "wandb/id", "wandb/run-1/files/log", "generator.onnx",
    ]  # fmt: skip
    theirs = [
        "notes.txt", "samples/best.png", "samples/raw/x.png", "checkpoints/good/ema.safetensors", "tensorboard/notes",
        "other.onnx", "mine.onnx", "mine.onnx.json", "samples.png",
    ]  # fmt: skip
    for name in ours + theirs:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    (run / "config.json").write_text('{"config": {}, "environment": {"fastgan": "0.1.0"}}')
    (run / "generator.onnx.json").write_text('{"file": "generator.onnx", "fastgan": "0.1.0"}')
    with rundir.prepared(run, resume=False, overwrite=True):
        assert sorted(snapshot(run)) == sorted([*theirs, "config.json", ".lock"])


def test_old_runs_are_recognized(request):
    assert is_run(request.config.rootpath / "tests" / "data_old" / "run_directory")


def test_pictures_are_not_written_over_their_sources(tmp_path):
    from fastgan.upscale.image.folder import FolderReport, jobs_of

    source, out = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    out.mkdir()
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(source / name)
    (out / "a.png").symlink_to(source / "b.png")
    (out / "b.png").hardlink_to(source / "b.png")
    (out / "sub").symlink_to(source / "sub")
    report = FolderReport()
    assert jobs_of(1, source, out, True, "", None, report) == []
    assert {path.name: reason.split(" is ")[1] for path, reason in report.failed} == dict.fromkeys(
        ("a.png", "b.png", "c.png"), "one of the sources, which are never written over"
    )


def test_the_folder_of_a_video_with_other_files_is_left_alone(tmp_path):
    from fastgan.upscale.video.segments import SegmentStore

    store = SegmentStore(tmp_path / "clip.mp4")
    store.folder.mkdir()
    (store.folder / "verse.wav").write_text("the user's")
    expected = r"clip.mp4.parts is for the work on .*, and holds 'verse.wav'; move it away"
    with pytest.raises(UsageError, match=expected), store.locked():
        pass
    assert snapshot(tmp_path) == {"clip.mp4.parts/verse.wav": b"the user's"}


def test_a_fetched_folder_replaces_only_its_own_files(tmp_path):
    from fastgan._util.packages import replacing_folder
    from fastgan.errors import DataError

    target = tmp_path / "data" / "mnist"
    target.mkdir(parents=True)
    (target / "thesis.tex").write_text("the user's")
    with pytest.raises(DataError, match=r"is not replaced: it holds 'thesis\.tex'"), replacing_folder(target) as new:
        (new / "meta.json").write_text("{}")
    assert snapshot(tmp_path) == {"data/mnist/thesis.tex": b"the user's"}
    (target / "thesis.tex").rename(target / "meta.json")
    with replacing_folder(target) as new:
        (new / "meta.json").write_text("{}")
    assert snapshot(tmp_path) == {"data/mnist/meta.json": b"{}"}


def test_a_table_of_kernels_replaces_no_other_file(tmp_path):
    from fastgan.ops import _autotune

    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps({"hardware": {"device": "GPU X"}, "measurements": {}}))
    mine = tmp_path / "table" / "gpu-x.json"
    mine.parent.mkdir()
    mine.write_text("the user's")
    with pytest.raises(UsageError, match=r"gpu-x\.json is no table of fastgan"):
        _autotune.write_table(measured, mine.parent)
    assert hashlib.sha256(mine.read_bytes()).digest() == hashlib.sha256(b"the user's").digest()
