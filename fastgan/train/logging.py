"""The lines of metrics of a run: means over intervals, and where they are written: JSON lines, TensorBoard, W&B."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan._util.files import append_whole, failure, sync, write_whole
from fastgan._util.schema import read_json
from fastgan.errors import UsageError
from fastgan.report.legacy import modernized_row
from fastgan.train.config import Config
from fastgan.train.device import peak_memory
from fastgan.train.distributed import World
from fastgan.train.run_schema import ROW
from fastgan.train.state import TrainState


class Metrics:
    """`metrics.jsonl`, TensorBoard, and Weights & Biases if asked: one line per interval.

    Opened at step `after`, it drops the lines beyond: they belong to steps that a resumed run takes again.
    Raises WriteError where something cannot be written.
    """

    def __init__(self, run: Path, after: int = 0, config: Config | None = None):
        self._run, self._config = run, config
        self._open(after)

    def _open(self, after: int) -> None:
        path, folder = self._run / "metrics.jsonl", self._run / "tensorboard"
        kept = []
        if after and path.exists():
            text = path.read_bytes().decode("utf-8", "replace")
            kept = [(line, row) for line in text.split("\n") if (row := _row(line)) and row["step"] <= after]
        write_whole(path, "".join(line + "\n" for line, _ in kept).encode())
        #: What earlier parts of the run logged.
        self.kept: list[dict[str, Any]] = [modernized_row(row) for _, row in kept]
        self._loggers: list[TensorBoard | Wandb] = [TensorBoard(folder, after + 1 if folder.exists() else None)]
        if self._config is not None and self._config.logging.wandb:
            self._loggers.append(Wandb(self._run, self._config.logging.wandb, self._config.to_dict()))
        self._file = path.open("ab", buffering=0)

    def back_to(self, step: int) -> None:
        """Drop the lines beyond that step: the run takes it again."""
        self.close()
        self._open(step)

    def write(self, line: dict[str, float]) -> None:
        """Write one interval: `step`, `images`, `seconds` and `group/name` values."""
        append_whole(self._file, (json.dumps(line) + "\n").encode())
        for logger in self._loggers:
            logger.write(int(line["step"]), {name: value for name, value in line.items() if "/" in name})

    def sync(self) -> None:
        """Let it reach the disk, before a checkpoint that counts on it."""
        os.fsync(self._file.fileno())
        for logger in self._loggers:
            logger.sync()

    def close(self) -> None:
        self._file.close()
        for logger in self._loggers:
            logger.close()


def _row(line: str) -> dict[str, Any] | None:
    """A line of metrics; None for one that was half-written by a run that was killed."""
    try:
        return ROW(read_json(line), "metrics")
    except ValueError:
        return None


class Means:
    """Running means of scalars, kept on the device: nothing waits for the device until `fetch`.

    Values that are not finite are left out: they belong to updates that were skipped.
    """

    #: Steps whose scalars are added up at once: each addition is some launches, which small networks would wait for.
    AT_ONCE = 64

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._waiting: dict[tuple[str, ...], list[Tensor]] = {}

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Add one step's scalars; a step may leave some out. They must stay as they are until they are fetched."""
        names = tuple(scalars)
        waiting = self._waiting.setdefault(names, [])
        waiting.extend(scalars.values())
        if len(waiting) >= self.AT_ONCE * len(names):
            self._add_up(names)

    def _add_up(self, names: tuple[str, ...]) -> None:
        values = torch.stack([value.float() for value in self._waiting.pop(names)]).view(-1, len(names))
        good = values.isfinite()
        total, count = torch.where(good, values, 0.0).sum(0), good.sum(0).float()
        before = self._sums.get(names)
        self._sums[names] = (total, count) if before is None else (before[0] + total, before[1] + count)

    def fetch(self, world: World) -> dict[str, float]:
        """The means since the last fetch, over all ranks, in one transfer; names without a finite value are absent."""
        for names in list(self._waiting):
            self._add_up(names)
        if not self._sums:
            return {}
        rows = torch.cat([torch.stack(pair, 1) for pair in self._sums.values()])
        world.mean_([rows])  # of totals and counts alike, so that their ratio is everybody's
        sums: dict[str, tuple[float, float]] = {}
        for name, (total, count) in zip((n for names in self._sums for n in names), rows.tolist(), strict=True):
            # One name may come among others at some steps (a lazy penalty's) and alone at others.
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + total, before[1] + count
        self._sums = {}
        return {name: total / count for name, (total, count) in sums.items() if count}


class Interval:
    """The steps since the last line of metrics: their time, and the line that they become."""

    def __init__(self, state: TrainState):
        self._state = state
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._begun, self._images, self._step = time.perf_counter(), self._state.images, self._state.step
        self._aside = 0.0

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What runs inside, such as a compiler, is part of the run's seconds, and not of the images per second."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._aside += time.perf_counter() - begun

    def row(self, figures: dict[str, float]) -> dict[str, Any]:
        """The line of metrics at this step; counts the interval's seconds."""
        state = self._state
        elapsed = time.perf_counter() - self._begun
        state.seconds += elapsed
        rates = state.rates(state.step - 1) if state.config.optim.scheduled else {}
        peak = peak_memory(state.device) / 1e9
        return {
            "step": state.step, "images": state.images, "seconds": round(state.seconds, 3), **figures,
            "speed/images_per_second": (state.images - self._images) / (elapsed - self._aside),
            **({"memory/peak_gb": round(peak, 3)} if peak else {}),
            **{f"rate/{name}": rate for name, rate in rates.items()}, **state.growth.figures,
        }  # fmt: skip


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
