"""Other processes and a run that trains: none disturbs it, and none trains there too."""

import json
import os
import subprocess
import sys
import time

import pytest

from fastgan.train import rundir

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def training(tmp_path, images_npz):
    """A process that trains in tmp_path/run until it is stopped."""
    words = ["train", "demo", "--data", images_npz, "--width", 4, "--latent", 8, "--batch", 8, "--steps", 100_000,
             "--log-every", 1, "--sample-every", 2, "--checkpoint-every", 2, "--compile", "off",
             "--out", "run"]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastgan", *map(str, words)], cwd=tmp_path, env=ONE_THREAD, stderr=log
        )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("0*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def test_other_processes_and_a_run_that_trains(training, cli, tmp_path):
    run = tmp_path / "run"
    owner = rf"another process (pid {training.pid} on {os.uname().nodename}) trains there"
    weights = {path: path.read_bytes() for path in run.rglob("generator.safetensors")}
    for words in (["--resume", "run"], ["--overwrite", "--out", "run"], ["--resume", "run", "--steps", "9"]):
        done = cli("train", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"fastgan: out: run: {owner}\n"
    assert weights
    for _ in range(5):
        assert cli("report", "run").returncode == 0
    assert training.poll() is None, (tmp_path / "log").read_text()
    training.kill()
    training.wait()
    assert (run / ".lock").exists()
    rundir.check(run, resume=True, overwrite=False)
    with rundir.prepared(run, resume=True, overwrite=False):
        assert json.loads((run / ".lock").read_text())["pid"] == os.getpid()
    assert [path.name for path in run.rglob(".*")] == []
