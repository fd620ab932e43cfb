"""The directory of a run: what lies in it, and how it is written so that a killed run leaves nothing half-done."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan._util.files import append_whole, write_whole
from fastgan.errors import DataError, UsageError, WriteError
from fastgan.train import checkpoint
from fastgan.train.config import Config
from fastgan.train.distributed import World
from fastgan.train.loggers import TensorBoard, Wandb

#: The first is what makes a folder a run.
FILES = ("config.json", "status.json", "metrics.jsonl", "layers.json", "report.html")


def check(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise UsageError rather than touch another run, or a folder that is none of ours. Changes nothing."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"out: expected a directory, {out} is a file")
    if resume:
        if not (out / "config.json").exists():
            raise UsageError(f"resume: {out} holds no run (there is no config.json in it)")
    elif (out / "config.json").exists():
        if not overwrite:
            raise UsageError(
                f"out: {out} already holds a run; continue it with --resume or replace it with --overwrite"
            )
    # A run that was killed before its config.json stood leaves nothing that is worth more than a new run.
    elif out.exists() and any(path.name not in (".writable", ".config.json.part") for path in out.iterdir()):
        raise UsageError(f"out: {out} is not empty and holds no run of fastgan; choose another directory")


def prepare(out: Path, *, resume: bool, overwrite: bool) -> None:
    """`check`, then make `out` ready for a run. Raises UsageError also where it cannot be written."""
    check(out, resume=resume, overwrite=overwrite)
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"out: {out} cannot be written: {error.strerror}") from error
    if overwrite:
        _clear(out)
    # By a process that was killed, which may have been the one to write the last of these files.
    checkpoint.clean(out / "checkpoints")
    for left in [*(out / f".{name}.part" for name in FILES), *(out / "samples").glob(".*.part")]:
        left.unlink(missing_ok=True)


def _clear(out: Path) -> None:
    # Only what a run writes: a user's notes in the folder stay.
    for name in ("samples", "checkpoints", "tensorboard", "wandb"):
        shutil.rmtree(out / name, ignore_errors=True)
    # An export of the old generator beside the new run would be taken for the new one's.
    exports = [path.name for figures in out.glob("*.onnx.json") for path in (figures, figures.with_suffix(""))]
    # config.json stays until the new one takes its place: without it, a folder that is not empty is no run's.
    for name in (*FILES[1:], *exports):
        (out / name).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all. Raises WriteError."""
    write_whole(path, json.dumps(value, indent=1).encode())


def write_last(path: Path, value: Any) -> None:
    """`write_json`, on a full disk too: there into the space that the file has already."""
    try:
        write_json(path, value)
    except WriteError:
        with path.open("r+b") as file:
            file.write(json.dumps(value, indent=1).encode())
            file.truncate()


def read_config(run: Path) -> dict[str, Any]:
    """`config.json` of a run. Raises UsageError when the directory holds none, DataError when it is unreadable."""
    path = run / "config.json"
    if not path.is_file():
        raise UsageError(f"run: {run} holds no run of fastgan (there is no config.json in it)")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is not readable: {error}") from error


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, for `config.json`."""
    from fastgan import __version__
    from fastgan._util import native

    threads = f" ({torch.get_num_threads()} threads)" if device.type == "cpu" else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "fastgan": __version__,
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device}{threads}",
        "processor": name,
        "commit": _commit(),
        "backends": {m.strip("_"): native.why_not(m) or "available" for m in ("_cpu", "_cuda")},
    }


def _commit() -> str | None:
    """The commit of the source tree that this package runs from, or None for an installed copy."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # a checkout on a machine without git
        return None


class Metrics:
    """`metrics.jsonl`, and loggers that get the same (TensorBoard, Weights & Biases if asked): one line per interval.

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
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= after]
        write_whole(path, "".join(line + "\n" for line in kept).encode())
        #: What earlier parts of the run logged.
        self.kept: list[dict[str, Any]] = [json.loads(line) for line in kept]
        self._loggers: list[TensorBoard | Wandb] = [TensorBoard(folder, after + 1 if folder.exists() else None)]
        if self._config is not None and self._config.wandb:
            self._loggers.append(Wandb(self._run, self._config.wandb, self._config.to_dict()))
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


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half-written by a run that was killed


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
