"""A full disk: one error message, the previous checkpoint whole, no partial files, and the run can be resumed."""

import errno
import json
import os
import resource
import signal
import subprocess

import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan._util import files
from fastgan.data import open_source
from fastgan.data.stream import BatchStream
from fastgan.errors import CheckpointError, WriteError
from fastgan.train import checkpoint, rundir
from fastgan.train.logging import Metrics, TensorBoard

SMALL = {"latent": 8, "width": 4, "batch": 8, "steps": 6, "log_every": 1, "sample_every": 3, "checkpoint_every": 2}


@pytest.fixture
def small_disk(tmp_path):
    """A separate file system of 6 MB, where the tests may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "none", place], capture_output=True, check=False
        )
    except OSError:
        pytest.skip("no program mount")
    if done.returncode:
        pytest.skip("may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


class Filling:
    """Batches; before batch `at`, the disk is filled but for so many bytes."""

    def __init__(self, images, config, at, place, left):
        self.stream = BatchStream(images, config.data.batch, config.seed, torch.device("cpu"))
        self.state_dict, self.load_state_dict = self.stream.state_dict, self.stream.load_state_dict
        self.at, self.place, self.left = at, place, left

    def __iter__(self):
        return self

    def __next__(self):
        if self.stream.position == self.at * 8:
            fill(self.place, self.left)
        return next(self.stream)


def fill(place, left):
    """Leave so many bytes on a disk; of a page that a file has already, the rest stays writable."""
    with (place / "filler").open("wb", buffering=0) as file:
        free = os.statvfs(place)
        file.truncate(0)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left)


def trained(images_npz, out, batches=None, resume=False, **options):
    config = Config.from_flags(**SMALL | options)
    torch.manual_seed(0)
    networks = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)
    trainer = Trainer(*networks, config=config, out=out)
    images = open_source(images_npz)
    batches = batches or BatchStream(images, config.data.batch, 0, torch.device("cpu"))
    trainer.fit(batches, resume=resume)
    return trainer


def leftovers(run):
    return [path for path in run.rglob("*") if ".part" in path.name or path.name.endswith(".old")]


def weights(run, step=6):
    folder = run / "checkpoints" / f"{step:08d}"
    return [(folder / f"{part}.safetensors").read_bytes() for part in checkpoint.PARTS]


def test_a_disk_without_free_space(small_disk, images_npz):
    run = small_disk / "run"
    batches = Filling(open_source(images_npz), Config.from_flags(**SMALL), 3, small_disk, 0)
    # Lines fit until one needs another page of the disk.
    with pytest.raises(
        WriteError, match=r"(metrics.jsonl|events.out.tfevents.*) could not be written: No space left on"
    ):
        trained(images_npz, run, batches, steps=200, sample_every=1000, checkpoint_every=1000)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "failed"
    assert "could not be written: No space left on device; 0 kB are free there" in status["message"]
    assert (run / "metrics.jsonl").read_text().endswith("}\n")
    assert leftovers(run) == []


def test_a_checkpoint_that_does_not_fit(small_disk, tmp_path, images_npz):
    trained(images_npz, tmp_path / "whole")
    run = small_disk / "run"
    batches = Filling(open_source(images_npz), Config.from_flags(**SMALL), 3, small_disk, 40_000)
    expected = (
        r"checkpoint 4 could not be written to .*/run/checkpoints: .*No space left.*;"
        r" it takes \d+ kB and \d+ kB are free there; the checkpoint of step 2 is whole$"
    )
    with pytest.raises(CheckpointError, match=expected):
        trained(images_npz, run, batches, sample_every=1000)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000002"]
    checkpoint.read_state(run / "checkpoints" / "00000002")
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert leftovers(run) == []
    (small_disk / "filler").unlink()
    trained(images_npz, run, resume=True)
    assert weights(run) == weights(tmp_path / "whole")


def test_the_command_line_prints_one_sentence(small_disk, command, images_npz):
    base = ["train", "demo", "--data", images_npz, "--width", 16, "--latent", 8, "--batch", 8, "--checkpoint-every", 2,
            "--log-every", 2, "--sample-every", 2]  # fmt: skip
    assert command(*base, "--out", small_disk / "run", "--steps", 2).returncode == 0
    # Space for the sample grids and the report, not for the checkpoint after them.
    fill(small_disk, 600_000)
    done = command("train", "--resume", small_disk / "run", "--steps", 4)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr.splitlines()[-1]
    assert "the checkpoint of step 2 is whole" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["fixed-00000003.png", "real.png", "config.json", "metrics.jsonl"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, images_npz, monkeypatch, name):
    replace, begun = os.replace, []

    def full(aside, path):
        begun.append(path)
        if str(path).endswith(name) and len(begun) > 1 - (name == "metrics.jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(aside, path)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(WriteError, match=rf"{name} could not be written: No space left on device; .* are free there"):
        trained(images_npz, tmp_path / "run")
    monkeypatch.undo()
    assert leftovers(tmp_path / "run") == []
    if name != "metrics.jsonl":  # before that, the run has not begun
        status = json.loads((tmp_path / "run" / "status.json").read_text())
        assert status["state"] == "failed"
        assert name in status["message"]
    trained(images_npz, tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("name", ["report.html", "layers.json", "fixed.webp"])
def test_what_only_shows_a_run_does_not_end_it(tmp_path, images_npz, monkeypatch, caplog, name):
    replace = os.replace

    def full(aside, path):
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(aside, path)

    monkeypatch.setattr(files.os, "replace", full)
    trained(images_npz, tmp_path / "run")
    run = tmp_path / "run"
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert checkpoint.newest(run / "checkpoints")[1]["step"] == 6
    assert leftovers(run) == []
    (said,) = {text for text in caplog.messages if name in text and "could not be written" in text}
    assert "could not be written: No space left on device" in said


@pytest.fixture
def no_file_above():
    """Let the kernel refuse files above a size: what was asked for is written in part, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_line_of_metrics_is_whole_or_absent(tmp_path, no_file_above):
    metrics = Metrics(tmp_path)
    metrics.write({"step": 1, "loss/generator": 0.5})
    path = tmp_path / "metrics.jsonl"
    (events,) = (tmp_path / "tensorboard").iterdir()
    line, record = path.read_bytes(), events.read_bytes()
    no_file_above(len(line) + 10)
    with pytest.raises(WriteError, match=r"metrics.jsonl could not be written: No space left on device"):
        metrics.write({"step": 2, "loss/generator": 0.5})
    no_file_above(len(record) + 10)
    with pytest.raises(WriteError, match=r"events.out.tfevents.* could not be written: File too large"):
        metrics.write({"step": 2, "loss/generator": 0.5})
    assert path.read_bytes()[: len(line)] == line
    assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [1, 2]
    assert events.read_bytes() == record
    metrics.close()
    no_file_above(10)
    with pytest.raises(WriteError, match="could not be written"):
        TensorBoard(tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_the_last_status_is_written_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    rundir.write_json(path, {"state": "running", "message": "x" * 100})

    def full(data, to):
        raise WriteError("full")

    monkeypatch.setattr(rundir, "write_whole", full)
    with pytest.raises(WriteError):
        rundir.write_json(path, {"state": "failed"})
    rundir.write_last(path, {"state": "failed"})
    assert json.loads(path.read_text()) == {"state": "failed"}
