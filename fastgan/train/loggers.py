"""The same lines for others to draw: TensorBoard's event files, and Weights & Biases.

TensorBoard's own writer does so from a thread, up to two minutes later: what a killed run had logged was lost, and a
full disk was a traceback from that thread.
"""

from __future__ import annotations

import importlib.util
import io
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from fastgan._util.files import append_whole, failure, write_whole
from fastgan.errors import UsageError, WriteError


class Board:
    """Appends to a new event file in `folder`. from_step: points of earlier files from that step on are void."""

    def __init__(self, folder: Path, from_step: int | None = None):
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._events, self._summaries = event_pb2, summary_pb2
        # TensorBoard reads the files in the order of their names.
        path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise failure(path, error) from error
        try:
            self._write(file_version="brain.Event:2")
            if from_step is not None:
                started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._write(step=from_step, session_log=started)
        except WriteError:
            self.close()
            path.unlink()
            raise

    def write(self, step: int, values: dict[str, float]) -> None:
        """One point for each name. Raises WriteError where it cannot be written."""
        values_of = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self._summaries.Summary(value=values_of))

    def sync(self) -> None:
        """Let what was written reach the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **fields: object) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(self._events.Event(wall_time=time.time(), **fields).SerializeToString())
        append_whole(self._file, record.getvalue())


def check_wandb(project: str, out: Path | None) -> None:
    """Raise UsageError where a run cannot be logged to a project, before anything is done."""
    if not project:
        return
    if out is None:
        raise UsageError("wandb: expected a run directory too (out=...), whose lines are copied to the project")
    if importlib.util.find_spec("wandb") is None:
        raise UsageError(f"wandb: the package that logs to {project!r} is not installed; pip install wandb")


class Wandb:
    """Logs to a project of Weights & Biases: in a resumed run on to where it was; the steps it has already stay."""

    def __init__(self, run: Path, project: str, config: dict[str, Any]):
        import wandb

        name = run / "wandb" / "id"
        if not name.exists():
            name.parent.mkdir(exist_ok=True)
            write_whole(name, secrets.token_hex(4).encode())
        self._run = wandb.init(
            project=project, id=name.read_text(), name=run.resolve().name, dir=run, config=config, resume="allow"
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """One point for each name."""
        self._run.log(values, step=step)

    def sync(self) -> None:
        """Nothing: its own process sends what it was given."""

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()
