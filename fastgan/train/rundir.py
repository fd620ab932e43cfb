"""The run directory: what is in it, and how it is written so that a killed run leaves nothing half-written."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgan._util.files import aside, clean, is_unfinished, remove, write_whole
from fastgan._util.locks import NOFOLLOW, owned, owner
from fastgan._util.options import option
from fastgan._util.schema import read_json_file
from fastgan.errors import DataError, UsageError, WriteError
from fastgan.report.animation import write_animation
from fastgan.report.load import is_run
from fastgan.report.page import write_report
from fastgan.tasks import Generation
from fastgan.tasks.networks import source_channels, takes_images
from fastgan.train import checkpoint
from fastgan.train.logging import Metrics
from fastgan.train.run_schema import CONFIG
from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)

#: Held by the process that trains.
LOCK = ".lock"
#: What a run and the commands on it write. A run is recognized by what its config.json says, see `report.load.is_run`.
FILES = ("config.json", "status.json", "metrics.jsonl", "layers.json", "report.html", "eval.json", "c2st.png")
_WRITTEN = {
    "samples": re.compile(r".+-\d{8,}\.png|real\.png|fixed\.webp"),
    "checkpoints": re.compile(r"\.?\d{8,}(\.old|(\.gone)?\.part)?"),
    "tensorboard": re.compile(r"events\.out\.tfevents\..+"),
    "wandb": re.compile(r"id|latest-run|(offline-)?run-.+|debug.*\.log|settings"),
}


def check(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise UsageError rather than touch another run, or a folder that is none of ours. Changes nothing."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"out: expected a directory, {out} is a file")
    if found := owner(out / LOCK):
        raise UsageError(f"out: {out}: another process ({found}) trains there")
    _check_content(out, resume=resume, overwrite=overwrite)


def _check_content(out: Path, *, resume: bool, overwrite: bool) -> None:
    if resume:
        if not (out / "config.json").exists():
            raise UsageError(f"resume: {out} holds no run (there is no config.json in it)")
        if not is_run(out):
            raise UsageError(f"resume: {out} holds no run of fastgan (its config.json is not one of a run)")
    elif (out / "config.json").exists():
        if not is_run(out):
            raise UsageError(
                f"out: {out} is not empty and holds no run of fastgan (its config.json is another program's);"
                " choose another directory"
            )
        if not overwrite and not never_stepped(out):
            raise UsageError(
                f"out: {out} already holds a run; continue it with {resuming(out)} or replace it with"
                f" {option('overwrite', True)}"
            )
    # A run that was killed before its config.json stood leaves nothing that is worth more than a new run.
    elif out.exists() and any(path.name != LOCK and not is_unfinished(path) for path in out.iterdir()):
        raise UsageError(f"out: {out} is not empty and holds no run of fastgan; choose another directory")


def resuming(out: Path) -> str:
    """How a run is continued: `resume=True`, or `--resume RUN` on the command line."""
    text = option("resume", True)
    return f"{text} {out}" if text.startswith("--") else text


@contextlib.contextmanager
def prepared(out: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """`check`, then make `out` ready for a run and hold its lock until the block ends.

    Raises UsageError also where it cannot be written.
    """
    check(out, resume=resume, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(owned(out / LOCK, out, "trains there"))
            with aside(out / "config.json"):
                pass  # whether files can be created
        except OSError as error:
            raise UsageError(f"out: {out} cannot be written: {error.strerror}") from error
        _check_content(out, resume=resume, overwrite=overwrite)  # again: it was not locked yet
        if overwrite or (not resume and never_stepped(out)):
            _clear(out)
        # By a process that was killed, which may have been the one to write the last of these files.
        checkpoint.clean(out / "checkpoints")
        for folder in (out, out / "samples"):
            clean(folder)
        yield


def never_stepped(out: Path) -> bool:
    """Whether the run in `out` ended before its first step, as one does whose batches do not fit: nothing is lost."""
    try:
        status = json.loads((out / "status.json").read_text())
        ended = status["state"] in ("failed", "interrupted") and status["step"] == 0
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return ended and not checkpoint.steps_in(out / "checkpoints")


def _clear(out: Path) -> None:
    # Only what a run writes: a user's notes in the folder, and in the folders in it, stay.
    for name, written in _WRITTEN.items():
        folder = out / name
        for path in folder.iterdir() if folder.is_dir() else ():
            if written.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    remove(path)
        with contextlib.suppress(OSError):
            folder.rmdir()
    # An export of the old generator beside the new run would be taken for the new one's.
    reports = [path for path in out.glob("*.onnx.json") if _names_version(path)]
    exports = [path for report in reports for path in (report, report.with_suffix(""))]
    # config.json stays until the new one takes its place: without it, a folder that is not empty is no run's.
    for path in (*(out / name for name in FILES[1:]), *exports):
        path.unlink(missing_ok=True)


def _names_version(path: Path) -> bool:
    """Whether a JSON file is one of fastgan's: a report of an export names the version."""
    try:
        return "fastgan" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all. Raises WriteError."""
    write_whole(path, json.dumps(value, indent=1).encode())


def write_last(path: Path, value: Any) -> None:
    """`write_json`, on a full disk too: there into the space that the file has already."""
    try:
        write_json(path, value)
    except WriteError:
        with os.fdopen(os.open(path, os.O_RDWR | NOFOLLOW), "r+b") as file:
            file.write(json.dumps(value, indent=1).encode())
            file.truncate()


def read_config(run: Path) -> dict[str, Any]:
    """`config.json` of a run. Raises UsageError when the directory holds none, DataError when it is unreadable."""
    path = run / "config.json"
    if not path.is_file():
        raise UsageError(f"run: {run} holds no run of fastgan (there is no config.json in it)")
    try:
        return read_json_file(path, CONFIG)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not readable: {error}") from error


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, for `config.json`."""
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


def write_config(state: TrainState) -> None:
    """`config.json`: the configuration, and the facts that reproduce and explain the run."""
    if state.run is None:
        return
    task = state.task

    def describe(network: nn.Module) -> dict[str, Any]:
        return {"name": type(network).__name__, "parameters": sum(p.numel() for p in network.parameters())}

    facts = {
        "config": state.config.to_dict(),
        "loss": {"name": state.loss, "unbounded": task.unbounded},
        "task": type(task).__name__,
        "world": state.world.size,
        "environment": environment(state.device),
        "networks": {name: describe(state.networks[name]) for name in ("generator", "discriminator")},
    }
    if source := source_channels(task.generator):
        facts["source_channels"] = source
    elif isinstance(task, Generation) and not takes_images(task.generator):
        facts["latent_shape"] = list(task.latent_shape)
        if task.neighbors is not None:
            facts["neighbors"] = task.neighbors.about
    write_json(state.run / "config.json", facts | state.about)


def write_status(state: TrainState, name: str, message: str = "") -> None:
    """`status.json`: running, finished, interrupted or failed, and at which step."""
    if state.run is not None:
        status = {"state": name, "step": state.step, "steps": state.config.steps, "message": message}
        write = write_last if name == "failed" else write_json
        write(state.run / "status.json", status)


def write_pages(state: TrainState, layers: list[dict[str, float | str]]) -> None:
    """The report as of now, and what it shows of layers. What cannot be written is logged, and the run goes on."""
    if (run := state.run) is not None:
        write_status(state, "running")
        _shown(lambda: write_json(run / "layers.json", layers))
        _shown(lambda: write_report(run))


def _shown(write: Callable[[], object]) -> None:
    """Write something that a run is looked at with, and does not need to go on."""
    try:
        write()
    except Exception as error:  # whatever a file that another program has written into the run leads to
        _logger.warning("%s; the run does not need it", error)


def finish(state: TrainState, name: str, metrics: Metrics | None, message: str = "") -> None:
    """Close the metrics; the last status, animation and report."""
    run = state.run
    # Each by itself: on a full disk what ended the run matters more than a line that could not be written.
    close = metrics.close if metrics is not None else lambda: None
    for write in (lambda: write_status(state, name, message), close):
        with contextlib.suppress(*[OSError] * (name != "finished")):
            write()
    if run is not None:
        _shown(lambda: write_animation(run))
        _shown(lambda: write_report(run))
