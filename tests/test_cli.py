"""The command line. Signals, tracebacks, environment variables and missing packages are tested in processes."""

import importlib
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from fastgan import cli as cli_package
from fastgan._util import native

QUICK = ["--width", 4, "--latent", 8, "--batch", 8, "--steps", 6, "--log-every", 2, "--sample-every", 3,
         "--checkpoint-every", 3]  # fmt: skip


def fails(done, code, *words):
    """Exit code, one sentence of fastgan or one box of tyro with these words, and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    # tyro wraps its text and draws a box around it.
    message = last if last.startswith("fastgan: ") else " ".join(re.sub("[│╭╮╰╯─]|-{9,}", "", done.stderr).split())
    assert message == last or "fastgan: " not in done.stderr
    for word in words:
        assert word in message, message


def test_quickstart(cli, images_npz, tmp_path):
    """Train, sample, export, sample the export, report."""
    done = cli("train", "demo", "--data", images_npz, "--out", "run", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "training: 6 of 6 steps" in done.stderr
    assert "images per second" in done.stdout
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts["command"].startswith("fastgan train demo --data")
    assert facts["config"]["model"]["width"] == 4

    done = cli("export", "run")
    assert done.returncode == 0, done.stderr
    assert "parity at batch 64" in done.stdout
    assert "images per second at batch 64" in done.stdout

    for source, out in (("run", "torch.png"), ("run/generator.onnx", "onnx.png")):
        done = cli("sample", source, "--n", 9, "--out", out, "--seed", 5)
        assert done.returncode == 0, done.stderr
    grids = [np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("torch.png", "onnx.png")]
    assert grids[0].shape == (3 * 58 + 2, 3 * 58 + 2, 3)
    assert np.abs(grids[0] - grids[1]).max() <= 1  # the same latents, the same pictures
    assert grids[0].std() > 5

    done = cli("report", "run")
    assert done.returncode == 0, done.stderr
    for part in ("report.html", "fixed-00000006.png", "fixed.webp", "generator.onnx", "parity", "images per second"):
        assert part in done.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert "parity" in page.lower()
    assert "the most similar training image, among 200</span>" in page  # train passes its images as the reference


def test_resume_from_the_command_line(cli, images_npz, tmp_path):
    base = ["--data", images_npz, *QUICK]
    assert cli("train", "demo", *base, "--out", "whole").returncode == 0
    assert cli("train", "demo", *base, "--out", "run", "--steps", 3).returncode == 0
    fails(cli("train", "demo", *base, "--out", "run"), 2, "already holds a run", "--resume", "--overwrite")
    fails(cli("train", "--resume", "run", "--beta1", 0.1), 2, "beta1: 0.1 differs from the run's 0.5")
    # The run's own values may be repeated.
    done = cli("train", "--resume=run", "--steps", 6, "--width", 4)
    assert done.returncode == 0, done.stderr
    assert "resumed run at step 3" in done.stderr
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts["command"].startswith("fastgan train demo --data")  # the command that began it
    assert facts["config"]["steps"] == 6
    parts = [tmp_path / name / "checkpoints" / "00000006" / "ema.safetensors" for name in ("whole", "run")]
    assert parts[0].read_bytes() == parts[1].read_bytes()

    ema = parts[1]
    ema.write_bytes(ema.read_bytes()[:100])
    done = cli("sample", "run", "--out", "grid.png")  # the checkpoint before serves
    assert done.returncode == 0
    assert "step 3" in done.stdout
    (tmp_path / "run" / "checkpoints" / "00000003" / "state.json").write_text("{")
    fails(cli("sample", "run", "--out", "other.png"), 1, "no whole checkpoint", "ema.safetensors is damaged")
    fails(cli("train", "--resume", "run", "--steps", 9), 1, "no whole checkpoint")


def test_a_checkpoint_of_another_network(cli, images_npz, tmp_path):
    assert cli("train", "demo", "--data", images_npz, "--out", "run", *QUICK).returncode == 0
    path = tmp_path / "run" / "config.json"
    facts = json.loads(path.read_text())
    facts["config"]["model"]["width"] = 8
    path.write_text(json.dumps(facts))
    fails(cli("sample", "run"), 1, "is of another network")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.full)])
def test_ctrl_c_leaves_a_resumable_checkpoint(command, images_npz, tmp_path, number):
    words = ["train", "demo", "--data", images_npz, "--out", "run", *QUICK, "--steps", 100000, "--log-every", 1,
             "--sample-every", 100000, "--checkpoint-every", 100000]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgan", *map(str, words)], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # the tests may run under nohup
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "interrupted at step" in stderr
    assert "Traceback" not in stderr
    step = json.loads((tmp_path / "run" / "status.json").read_text())["step"]
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == [f"{step:08d}"]
    done = command("train", "--resume", "run", "--steps", step + 2)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["trian"], 2, "did you mean 'train'"),
        (["train", "deno"], 2, "unknown preset 'deno'; did you mean 'demo'"),
        (["train", "--stepz", "3"], 2, "Unrecognized options: --stepz, 3 Perhaps you meant: --steps INT"),
        (["train", "--loss", "wgangp"], 2, "did you mean 'wgan-gp'"),
        (["train", "--steps", "many"], 2, "Error parsing --steps"),
        (["train", "--steps"], 2, "Missing value for argument '--steps'"),
        (["train", "demo", "extra"], 2, "Unrecognized options: extra"),
        (["train", "--width", "0"], 2, "width: expected a number >= 1, got 0"),
        (["train", "--data", "mnst"], 1, "mnst"),
        (["train", "--data", "flat", "--condition", "projection"], 2, "labels: flat has none"),
        (["train", "--condition", "projection", "--classes", "5"], 2, "classes: expected a number above the labels"),
        (["train", "--data", "empty"], 1, "empty"),
        (["train", "--data", "broken"], 1, "2 of 3 images"),
        (["train", "--data", "mixed"], 1, "--resolution"),
        (["train", "--data", "wide"], 2, "--resolution"),
        (["train", "--out", "/proc/run"], 2, "out: /proc/run cannot be written"),
        (["train", "--resume", "nowhere"], 2, "nowhere holds no run"),
        (["train", "--resume", "nowhere", "--overwrite"], 2, "contradict"),
        (["train", "--resume", "nowhere", "--out", "run"], 2, "the run goes on in its own directory; leave --out out"),
        (["train", "--resume", "nowhere", "--init-from", "run"], 2, "leave --init-from out"),
        (["train", "--resume"], 2, "resume: expected the directory of the run behind it: --resume RUN"),
        (["train", "--resume", "--out", "nowhere"], 2, "expected the directory of the run behind it: --resume RUN"),
        (["sample", "nowhere"], 2, "nowhere holds no run"),
        (["sample"], 2, "Missing from fastgan sample"),
        (["sample", "broken.onnx"], 1, "is no ONNX file"),
        (["sample", "x", "--n", "0"], 2, "n: expected a number from 1"),
        (["export", "empty"], 2, "empty holds no run"),
        (["report", "nowhere"], 2, "nowhere"),
        (["report"], 2, "required"),
        (["report", "nowhere", "--out", "x"], 2, "Unrecognized options: --out, x"),
        (["compare"], 2, "runs: expected two or more to compare, got 0"),
        (["compare", "empty"], 2, "runs: expected two or more to compare, got 1"),
        (["compare", "empty", "nowhere"], 2, "expected a run directory with a config.json in it, got empty"),
        (["compare", "empty", "nowhere", "--out", "no/c.html"], 2, "out: expected a file in an existing folder"),
        (["train", "demo", "--resume", "nowhere"], 2, "leave the preset 'demo' out"),
    ],
)
def test_errors_of_bad_input(cli, tmp_path, words, code, expected):
    (tmp_path / "empty").mkdir()
    for folder, sizes in (
        ("flat", [(28, 28)] * 2),
        ("broken", [(28, 28)]),
        ("mixed", [(28, 28), (32, 32)]),
        ("wide", [(28, 14), (28, 14)]),
    ):
        (tmp_path / folder).mkdir()
        for i, size in enumerate(sizes):
            Image.new("L", size).save(tmp_path / folder / f"{i}.png")
    for name in ("x.png", "y.png"):
        (tmp_path / "broken" / name).write_bytes(b"\x89PNG no")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    fails(cli(*words), code, expected)


def test_debug_shows_where(command):
    done = command("train", "--data", "nowhere", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "DataError" in done.stderr


def test_help_and_lists(cli):
    done = cli()
    assert done.returncode == 2
    done = cli("--help")
    assert done.returncode == 0
    names = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert names >= {"train", "sample", "export", "upscale", "run", "bench", "compare", "data", "models", "presets"}
    done = cli("presets")
    assert done.returncode == 0
    assert "demo" in done.stdout
    done = cli("train", "--help")
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--data", "--steps", "--out", "--resume", "--seed", "--r1-weight"))


def test_doctor_lists_the_back_ends(command):
    """(tests/test_wheel.py checks what it prints where things are missing.)"""
    done = command("doctor")
    assert done.returncode == 0, done.stderr
    backend = "cpp" if native.why_not("_cpu") is None else "reference"
    assert f"bias_act             on cpu: {backend}" in done.stdout
    assert re.search(r"onnxruntime: ONNX Runtime [\d.]+ with .*CPUExecutionProvider", done.stdout)
    done = command("doctor", env={"FASTGAN_BACKEND": "reference"})
    assert "FASTGAN_BACKEND=reference" in done.stdout
    assert set(re.findall(r"on cpu: (.*)", done.stdout)) == {"reference"}
    done = command("doctor", env={"FASTGAN_BACKEND": "triton"})
    assert re.search(
        r"bias_act +on cpu: raises an error: .*bias_act cannot run there: the tensor is on cpu", done.stdout
    )


def test_doctor_lists_what_was_measured(cli, tmp_path):
    done = cli("doctor", "--kernels")
    assert done.returncode == 0, done.stderr
    assert "Nothing has been measured yet" in done.stdout
    assert "measured at its first call" in done.stdout
    times = {"library": 0.2, "triton/128x64x64w8s3": 0.1}
    choices = {
        "conv 2x3": {"name": "triton/128x64x64w8s3", "milliseconds": times, "unavailable": {}},
        "conv 4x3": {"name": "library", "milliseconds": {"library": 0.3}, "unavailable": {"triton/a": "too big"}},
    }
    directory = tmp_path / "cache" / "autotune" / "kernels"
    directory.mkdir(parents=True)
    content = {"hardware": {"device": "NVIDIA H200", "driver": "13000"}, "measurements": choices}
    (directory / "nvidia-h200.json").write_text(json.dumps(content))
    (directory / "broken.json").write_text("{")
    done = cli("doctor", "--kernels")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "broken.json cannot be read" in lines[0]
    assert lines[2:] == [
        "NVIDIA H200 (driver 13000):",
        "  conv 2x3 → triton/128x64x64w8s3 0.1000 ms, library 0.2000 ms, 2.00×",
        "  conv 4x3 → library 0.3000 ms; triton/a cannot run: too big",
    ]
    (directory / "broken.json").unlink()
    done = cli("doctor", "--kernels", "--write-table", tmp_path / "tables")
    assert done.returncode == 0, done.stderr
    table = tmp_path / "tables" / "nvidia-h200.json"
    assert f"table: {table}" in done.stdout.splitlines()
    assert json.loads(table.read_text()) == content


def test_a_forced_back_end_runs_whole_networks(command, images_npz):
    backend = "cpp" if native.why_not("_cpu") is None else "reference"
    done = command("train", "--data", images_npz, *QUICK, env={"FASTGAN_BACKEND": backend})
    assert done.returncode == 0, done.stderr
    done = command("train", "--data", images_npz, *QUICK, "--out", "other", env={"FASTGAN_BACKEND": "cuda"})
    fails(done, 1, "FASTGAN_BACKEND=cuda", "has no such back-end")


def test_sampling_an_onnx_file_needs_no_torch(command, images_npz, tmp_path):
    assert command("train", "demo", "--data", images_npz, "--out", "run", *QUICK, "--steps", 1).returncode == 0
    assert command("export", "run").returncode == 0
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not here')\n")
    done = command("sample", "run/generator.onnx", "--n", 4, "--out", "grid.png", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "grid.png").exists()


def test_no_module_hides_a_function_of_the_package():
    for module, function, _ in cli_package.COMMANDS.values():
        assert callable(getattr(importlib.import_module(module), function))
    assert all(callable(function) for function in (cli_package.main, cli_package.run))


def test_a_command_imports_only_what_it_needs():
    code = (
        "import sys; from fastgan.cli import run; run(['upscale', '--help'])\n"
        "print([m for m in sys.modules if m in ('torch', 'jinja2') or m.startswith(('fastgan.train', 'fastgan.data'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
