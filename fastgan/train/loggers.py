"""Loggers that get the rows of metrics.jsonl as well: TensorBoard, and Weights & Biases."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastgan._util.files import failure, sync, write_whole
from fastgan.errors import UsageError


class TensorBoard:
    """Writes to a new event file in `folder`. purge_step: TensorBoard hides points of earlier files from that step on.

    Every row is flushed: SummaryWriter by itself keeps rows up to two minutes, which a killed run would lose.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        from torch.utils.tensorboard import SummaryWriter

        before = set(folder.glob("events.*"))
        try:
            with _no_thread_traceback():
                self._writer = SummaryWriter(str(folder), purge_step=purge_step)
                self._writer.flush()
        except OSError as error:
            for path in set(folder.glob("events.*")) - before:
                path.unlink()
            raise failure(folder / "events.out.tfevents", error) from error
        self._failed = False
        (self._path,) = set(folder.glob("events.*")) - before

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one point for each name. Raises WriteError, with the file as it was before."""
        size = self._path.stat().st_size
        try:
            with _no_thread_traceback():
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)
                self._writer.flush()
        except OSError as error:
            self._failed = True
            os.truncate(self._path, size)
            raise failure(self._path, error) from error

    def sync(self) -> None:
        """Return once everything that was written is on the disk."""
        sync(self._path)

    def close(self) -> None:
        """Close the file. Raises WriteError for an error that `write` has not raised."""
        try:
            self._writer.close()
        except OSError as error:
            if not self._failed:
                raise failure(self._path, error) from error


@contextlib.contextmanager
def _no_thread_traceback() -> Iterator[None]:
    """Do not print the traceback of an OSError in SummaryWriter's thread, whose flush() raises it again here."""
    before, called = threading.excepthook, threading.Event()

    def hook(args: threading.ExceptHookArgs) -> None:
        if issubclass(args.exc_type, OSError):
            called.set()
        else:
            before(args)

    threading.excepthook = hook
    try:
        yield
    except OSError:
        called.wait(1)  # flush() can raise before the thread calls the hook
        raise
    finally:
        threading.excepthook = before


def check_wandb(project: str, out: Path | None) -> None:
    """Raise UsageError if a run cannot be logged to a project, before anything is done."""
    if not project:
        return
    if out is None:
        raise UsageError("wandb: expected a run directory too (out=...), whose rows are copied to the project")
    if importlib.util.find_spec("wandb") is None:
        raise UsageError(f"wandb: the package that logs to {project!r} is not installed; pip install wandb")


class Wandb:
    """Logs to a project of Weights & Biases. A resumed run continues the same W&B run, whose earlier steps stay."""

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
        """Log one point for each name."""
        self._run.log(values, step=step)

    def sync(self) -> None:
        """Do nothing: W&B's own process sends what it was given."""

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()
