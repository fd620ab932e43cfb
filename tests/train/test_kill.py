"""A run that is killed at any moment and resumed equals one that is not, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def killed(*arguments):
    """Run killed.py and return what it prints."""
    program = [sys.executable, Path(__file__).with_name("killed.py"), *map(str, arguments)]
    done = subprocess.run(program, env=ONE_THREAD, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def content(run):
    """The files of a run, without times, memory and TensorBoard's, which differ: {name: bytes or values}."""
    kept = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            times = ("seconds", "speed/images_per_second", "memory/peak_gb")
            kept[name] = [{key: value for key, value in line.items() if key not in times} for line in lines]
        elif name == "config.json":
            kept[name] = json.loads(path.read_text())
        elif name.endswith("state.json"):
            kept[name] = {**json.loads(path.read_text()), "seconds": None}
        elif name.endswith(("SHA256SUMS", "report.html")):
            kept[name] = None
        elif not name.startswith("tensorboard"):
            kept[name] = path.read_bytes()
    return kept


def points(run):
    """[(step, value)] of the discriminator's loss as TensorBoard shows them."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss/discriminator")]


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.full)])
def test_killed_at_random_moments(tmp_path, images_npz, kills):
    found = killed("runs", tmp_path, images_npz, kills)
    whole = content(tmp_path / "whole")
    assert [line["step"] for line in whole["metrics.jsonl"]] == list(range(1, 25))
    assert sum(name.endswith(".safetensors") for name in whole) == 4
    assert whole["checkpoints/00000024/state.json"]["skipped"] == 1
    runs = [*sorted(path for path in tmp_path.iterdir() if path.name.startswith("run")), tmp_path / "again"]
    assert len(runs) == kills + 1
    for run in runs:
        resumed = content(run)
        assert sorted(resumed) == sorted(whole), run
        for name, value in resumed.items():
            assert value == whole[name], f"{run.name}: {name}"
    # They were killed at different steps.
    assert len({str(step) for step in found["killed_at"]}) >= (4 if kills == 20 else 2), found
    assert found["processes"] >= 3
    for run in (runs[kills // 2 - 2], runs[-1]):
        assert points(run) == points(tmp_path / "whole")


def test_a_checkpoint_is_whole_at_every_instant_of_a_save(tmp_path):
    results = killed("saves", tmp_path)
    expected = {  # before and after: step, which one, the value in it
        "next": ([2, "old", 2.0], [3, "new", 3.0]),
        "again": ([1, "old", 1.0], [1, "new", 1.0]),
        "back": ([2, "old", 2.0], [2, "new", 2.0]),
    }
    for scene, (before, after) in expected.items():
        found = [result[:3] for result in results[scene]]
        assert len(found) > 15
        turn = found.index(after)
        assert turn > 5
        assert found == [before] * turn + [after] * (len(found) - turn), scene
    # Only the damaged one is skipped with a warning, not those that are being deleted.
    assert {result[3] for result in results["next"] + results["again"]} == {0}


def test_the_command_line_resumes_after_a_kill(command, images_npz, tmp_path):
    base = ["train", "demo", "--data", images_npz, "--width", 4, "--latent", 8, "--batch", 8, "--steps", 60,
            "--log-every", 3, "--sample-every", 30, "--checkpoint-every", 10]  # fmt: skip
    assert command(*base, "--out", "whole", env=ONE_THREAD).returncode == 0

    def kill(words, condition, delay):
        process = subprocess.Popen(
            [sys.executable, "-m", "fastgan", *map(str, words)], cwd=tmp_path, env=ONE_THREAD, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    run = tmp_path / "run"
    kill([*base, "--out", "run"], lambda: (run / "config.json").exists(), 0)
    assert not (run / "checkpoints").exists()
    resume = ["train", "--resume", "run"]
    kill(resume, lambda: (run / "checkpoints").exists() and list((run / "checkpoints").glob("0*")), 0.01)
    assert json.loads((run / "status.json").read_text())["state"] == "running"
    done = command(*resume, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert "resumed run at step" in done.stderr
    whole, resumed = content(tmp_path / "whole"), content(run)
    for name in whole:
        if name not in ("config.json", "metrics.jsonl"):
            assert resumed[name] == whole[name], name
    assert [line["step"] for line in resumed["metrics.jsonl"]] == [line["step"] for line in whole["metrics.jsonl"]]
    assert resumed["metrics.jsonl"] == whole["metrics.jsonl"]


@pytest.mark.full  # tests/train/test_state.py has it in one process
def test_a_run_killed_before_its_first_checkpoint_starts_at_step_0(command, images_npz, tmp_path):
    base = ["train", "demo", "--data", images_npz, "--width", 4, "--latent", 8, "--batch", 8, "--steps", 2]
    assert command(*base, "--out", "run", env=ONE_THREAD).returncode == 0
    folder = tmp_path / "run" / "checkpoints" / "00000002"
    before = (folder / "ema.safetensors").read_bytes()
    folder.rename(folder.with_name(".00000002.part"))
    done = command("train", "--resume", "run", env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert "run has no checkpoint yet: it begins anew at step 0" in done.stderr
    assert (folder / "ema.safetensors").read_bytes() == before
    (folder / "ema.safetensors").write_bytes(b"")
    done = command("train", "--resume", "run", env=ONE_THREAD)
    assert done.returncode == 1
    assert "no whole checkpoint" in done.stderr
