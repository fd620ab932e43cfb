"""A trained network as a file for a runtime, verified before it gets its name."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fastgan._util.files import write_whole
from fastgan.errors import FastganError, UsageError
from fastgan.export.job import Job
from fastgan.export.precision import precision_named
from fastgan.export.targets import onnx
from fastgan.runtime.spec import Spec

TARGETS = ("onnx", "tensorrt", "aoti", "triton")


def export(
    network: nn.Module,
    out: str | Path,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    latent_shape: tuple[int, ...] | None = None,
    calibration: Iterable[np.ndarray] | None = None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a network to `out`, and beside it `out`.json: what was compared, by how much it differs, how fast it is.

    network: from latents [N, *latent_shape], and labels int64 [N] where it has `classes`, to images [N, C, H, W], or
    from images to images, see `Spec.of`; it is copied and not changed. What a run averages comes from the run; norms
    are frozen as in eval(), spectral norms multiplied in, batch norms merged with the layer before them, fastgan's
    operations replaced by standard ones.
    to: "onnx" (batch, height and width dynamic); "tensorrt" (an engine, and the ONNX file it was built from beside it);
    "aoti" (PyTorch's ahead-of-time compiler); "triton" (a folder REPOSITORY/NAME for NVIDIA's server).
    precision: "fp32"; "fp16" and "bf16": weights and arithmetic of that type, norms in float32, float32 in and out;
    "int8": quantized with `calibration`, batches [N, C, H, W] like the network's input (latents need none).
    latent_shape: for networks that do not say it. about: facts to carry in the file.

    Every file is compared with the network in float64 at several batches and sizes: it may be twice as far off as
    PyTorch is at that precision. What is further off, overflows or works at the traced size only is refused with
    ExportError, and what was at `out` before stays. UsageError for arguments, missing packages and paths.
    """
    if to not in TARGETS:
        raise UsageError(f"to: expected one of {', '.join(TARGETS)}, got {to!r}")
    if not isinstance(network, nn.Module):
        raise UsageError(f"network: expected a torch.nn.Module, got {type(network).__name__}")
    row = precision_named(precision)
    spec = Spec.of(network, latent_shape)
    if precision == "int8":
        if to == "aoti":
            raise UsageError("precision: int8 is for onnx, tensorrt and triton, not for aoti")
        if calibration is None and spec.kind == "image":
            raise UsageError("calibration: int8 needs images like those the network will see, got none")
    if to != "aoti":
        onnx.need_packages()
    out = Path(out)
    # Beside an engine stays the ONNX file that it was built from.
    file = out.with_suffix(".onnx") if to == "tensorrt" else out
    with _writing(out, file, folder=to == "triton") as aside:
        job = Job(network, spec, row, {**(about or {}), "to": to})
        report = {"file": file.name, **(job.aoti(aside) if to == "aoti" else job.onnx(aside, calibration))}
        if to == "triton":
            from fastgan.export.targets import triton_server

            triton_server.write_repository(aside, out.parent, out.name, job.spec)
            aside.unlink()
        _publish(aside, file, report)
    if to == "tensorrt":
        from fastgan.export.targets import tensorrt

        report["engine"] = tensorrt.build(file, out, job.spec)
        _write_figures(file, report)
    return report


@contextlib.contextmanager
def _writing(out: Path, file: Path, *, folder: bool) -> Iterator[Path]:
    """Where `file` is written until it is verified. UsageError, before any work is done, where `out` cannot be."""
    for path in {out, file} - ({out} if folder else set()):
        if path.is_dir():
            raise UsageError(f"out: {path} cannot be written: it is a directory")
    aside = file.with_name(f".{file.stem}.part{file.suffix or '.onnx'}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        yield aside
    except OSError as error:
        if isinstance(error, FastganError):
            raise
        raise UsageError(f"out: {out} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # its folder may be what could not be written
            aside.unlink(missing_ok=True)


def _publish(aside: Path, out: Path, report: dict[str, Any]) -> None:
    figures = out.with_name(out.name + ".json")
    figures.unlink(missing_ok=True)  # never old figures beside a new model
    if aside.exists():
        os.replace(aside, out)
    _write_figures(out, report)


def _write_figures(out: Path, report: dict[str, Any]) -> None:
    write_whole(out.with_name(out.name + ".json"), json.dumps(report, indent=1).encode())
