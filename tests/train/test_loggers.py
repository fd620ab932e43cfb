"""TensorBoard, and Weights & Biases by a fake module: the rows of metrics.jsonl, under one W&B id for the whole run."""

import errno
import itertools
import json
import os
import sys
import threading
import types

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError, WriteError
from fastgan.train import logging


class Project:
    """A fake of the package wandb: records the calls of init and of the runs."""

    def __init__(self):
        self.started, self.lines, self.ended = [], [], 0

    def module(self):
        module = types.ModuleType("wandb")
        module.__spec__ = types.SimpleNamespace()
        module.init = lambda **options: (self.started.append(options), self)[1]
        return module

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.ended += 1


@pytest.fixture
def project(monkeypatch):
    project = Project()
    monkeypatch.setitem(sys.modules, "wandb", project.module())
    return project


def train(out, steps, resume=False, **options):
    flags = {"latent": 8, "width": 4, "batch": 8, "log_every": 2, "checkpoint_every": 2, "sample_every": 100}
    config = Config.from_flags(steps=steps, compile="off", **flags, **options)
    torch.manual_seed(0)
    trainer = Trainer(*models.build("mlp", resolution=28, channels=1, latent=8, width=4), config=config, out=out)
    trainer.fit(itertools.repeat(torch.zeros(8, 1, 28, 28)), resume=resume)


def test_the_same_rows_under_one_id(project, tmp_path):
    train(tmp_path / "run", 4, wandb="shirts")
    train(tmp_path / "run", 6, resume=True, wandb="shirts")
    assert [step for step, _ in project.lines] == [2, 4, 6]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for (_, values), line in zip(project.lines, lines, strict=True):
        assert values == {name: value for name, value in line.items() if "/" in name}
    first, second = project.started
    assert first["project"] == "shirts"
    assert first["name"] == "run"
    assert first["dir"] == tmp_path / "run"
    assert first["config"]["steps"] == 4
    assert first["resume"] == "allow"
    assert first["id"] == second["id"]
    assert project.ended == 2


def test_no_logging_to_wandb_by_default(project, tmp_path):
    train(tmp_path / "run", 2)
    assert project.started == []
    assert not (tmp_path / "run" / "wandb").exists()


def test_a_run_that_failed_is_closed_too(project, tmp_path):
    config = Config.from_flags(steps=4, log_every=2, wandb="shirts", compile="off")
    networks = models.build("mlp", resolution=28, channels=1, latent=64, width=4)
    trainer = Trainer(*networks, config=config, out=tmp_path / "run")
    with pytest.raises(UsageError, match="ended after 1"):
        trainer.fit(iter([torch.zeros(8, 1, 28, 28)]))
    assert project.ended == 1


def test_a_missing_package_is_an_error_before_anything_is_done(monkeypatch, tmp_path):
    monkeypatch.setattr(logging.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^wandb: the package that logs to 'shirts' is not installed; pip install"):
        train(tmp_path / "run", 2, wandb="shirts")
    assert not (tmp_path / "run").exists()


def test_a_run_that_writes_nothing_has_no_project(project):
    with pytest.raises(UsageError, match="wandb: expected a run directory too"):
        train(None, 2, wandb="shirts")


def points(folder):
    """[(step, value)] as TensorBoard shows them."""
    shown = EventAccumulator(str(folder))
    shown.Reload()
    return [(event.step, event.value) for event in shown.Scalars("loss/generator")]


def test_a_row_is_on_disk_before_the_next_one(tmp_path):
    """A run that is killed now loses no row: another process reads it from the file."""
    logger = logging.TensorBoard(tmp_path)
    logger.write(1, {"loss/generator": 0.5, "loss/discriminator": 2.0})
    assert points(tmp_path) == [(1, 0.5)]
    logger.write(2, {"loss/generator": 0.25})
    logger.sync()
    assert points(tmp_path) == [(1, 0.5), (2, 0.25)]
    logger.close()


def test_a_resumed_run_purges_later_steps(tmp_path):
    first = logging.TensorBoard(tmp_path)
    for step in (1, 2, 3):
        first.write(step, {"loss/generator": float(step)})
    first.close()
    second = logging.TensorBoard(tmp_path, purge_step=2)
    assert points(tmp_path) == [(1, 1.0)]
    second.write(2, {"loss/generator": 7.0})
    assert points(tmp_path) == [(1, 1.0), (2, 7.0)]
    second.close()


def test_a_failed_write_is_a_write_error_without_a_thread_traceback(tmp_path, monkeypatch, capfd):
    logger = logging.TensorBoard(tmp_path / "tensorboard")
    logger.write(1, {"loss/generator": 0.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    before, hook = path.read_bytes(), threading.excepthook

    def half(self, filename, content, binary_mode=False):
        with open(filename, "ab") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LocalFileSystem, "append", half)
    for _ in range(2):  # the second time its thread has ended
        with pytest.raises(WriteError, match=r"events.out.tfevents.* could not be written: No space left on device"):
            logger.write(2, {"loss/generator": 0.5})
        assert path.read_bytes() == before
    monkeypatch.undo()
    logger.close()
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is hook


def test_other_errors_of_threads_are_still_reported(monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    with logging._no_thread_traceback():
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    assert [args.exc_type for args in seen] == [ZeroDivisionError]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file.*could not be written"):
        logging.TensorBoard(tmp_path / "file")
