"""The run directory: what is in it, and how it is written so that a killed run leaves nothing half-written."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgan._util.files import write_whole
from fastgan._util.schema import read_json_file
from fastgan.errors import DataError, UsageError, WriteError
from fastgan.report.animation import write_animation
from fastgan.report.page import write_report
from fastgan.tasks import Generation
from fastgan.tasks.networks import source_channels
from fastgan.train import checkpoint
from fastgan.train.logging import Metrics
from fastgan.train.run_schema import CONFIG
from fastgan.train.state import TrainState

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
    elif isinstance(task, Generation):
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
    """The report as of now, and what it shows of layers."""
    if state.run is not None:
        write_json(state.run / "layers.json", layers)
        write_status(state, "running")
        write_report(state.run)


def finish(state: TrainState, name: str, metrics: Metrics | None, message: str = "") -> None:
    """Close the metrics; the last status, animation and report."""
    run = state.run

    def pages() -> None:
        if run is not None:
            write_animation(run)

    def report() -> None:
        if run is not None:
            write_report(run)

    # Each by itself: on a full disk what ended the run matters more than a page that could not be written.
    close = metrics.close if metrics is not None else lambda: None
    for write in (lambda: write_status(state, name, message), close, pages, report):
        with contextlib.suppress(*[OSError] * (name != "finished")):
            write()
