"""A trained network as a file for a runtime, verified before it gets its name."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan._files import write_whole
from fastgan.deploy import onnx_file
from fastgan.deploy.lower import lower
from fastgan.deploy.precision import Precision, at_precision, compute, precision_named
from fastgan.deploy.probes import sample
from fastgan.deploy.session import latents
from fastgan.deploy.spec import Spec
from fastgan.deploy.twin import widened
from fastgan.deploy.verify import Run, Standard, smallest_units
from fastgan.errors import UsageError
from fastgan.nn import fold

TARGETS = ("onnx", "tensorrt", "aoti", "triton")
#: How long the finished file is timed for at each batch, seconds.
_TIMED = 0.3


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

    network: from latents [N, *latent_shape] to images [N, C, H, W], or from images to images, see `Spec.of`; it is
    copied and not changed. What a run averages comes from the run; norms are frozen as in eval(), spectral norms
    multiplied in, batch norms merged with the layer before them, fastgan's operations replaced by standard ones.
    to: "onnx" (batch, height and width dynamic); "tensorrt" (an engine, and the ONNX file it was built from beside it);
    "aoti" (PyTorch's ahead-of-time compiler); "triton" (a folder REPOSITORY/NAME for NVIDIA's server).
    precision: "fp32"; "fp16" and "bf16": weights and arithmetic of that type, norms in float32, float32 in and out;
    "int8": quantised with `calibration`, batches [N, C, H, W] like the network's input (latents need none).
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
    out = Path(out)
    # Beside an engine stays the ONNX file that it was built from.
    file = out.with_suffix(".onnx") if to == "tensorrt" else out
    with _writing(file) as aside:
        job = _Job(network, spec, row, {**(about or {}), "to": to})
        report = {"file": file.name, **(job.aoti(aside) if to == "aoti" else job.onnx(aside, calibration))}
        if to == "triton":
            from fastgan.deploy import serve

            serve.write_repository(aside, out.parent, out.name, job.spec)
            aside.unlink()
        _publish(aside, file, report)
    if to == "tensorrt":
        from fastgan.deploy import tensorrt

        report["engine"] = tensorrt.build(file, out, job.spec)
        _write_figures(file, report)
    return report


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[Path]:
    """Where to write until it is verified. UsageError, before any work is done, where `out` cannot be written."""
    aside = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        out.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        yield aside
    except OSError as error:
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


class _Job:
    """One network on its way: what it is, what is written, and what the result is judged by."""

    def __init__(self, network: nn.Module, spec: Spec, precision: Precision, about: dict[str, Any]):
        from fastgan import __version__

        self.precision = precision
        truth = fold(network).cpu().float().requires_grad_(False)
        self.smallest = smallest_units(truth, spec)
        self.x = torch.from_numpy(sample(spec, self.smallest))
        self.spec = _with_output(spec, truth, self.x)
        lowered = lower(truth, self.x)
        self.network = at_precision(lowered, precision)
        self.facts = {**about, "precision": precision.name, "fastgan": __version__}
        like = self.network if self.network is not lowered else None
        self.standard = Standard.of(truth, self.spec, precision.name, like)
        self._truth = truth

    def onnx(self, path: Path, calibration: Iterable[np.ndarray] | None) -> dict[str, Any]:
        """Write and verify an ONNX file. Returns the report."""
        onnx_file.need_packages()
        onnx_file.write(self.network, self.x, path, self.spec, self.precision.opset, self.smallest)
        quantised: dict[str, Any] = {}
        if self.precision.name == "int8":
            # Of float32 more is asked than of int8: what is quantised must be right itself.
            Standard.of(self._truth, self.spec).judge(onnx_file.open_file(path), "the model before quantisation")
            quantised = {"quantisation": self._quantise(path, calibration)}
        opset = onnx_file.opset_of(path)
        self.facts["opset"] = opset
        onnx_file.stamp(path, self.spec, self.facts)
        run, verified_by = onnx_file.open_file, "ONNX Runtime, CPU"
        if self.precision.dtype in (torch.float16, torch.bfloat16):
            judged = self.standard.judge(onnx_file.open_file(widened(path)))
            verified_by += ", on a float32 twin that rounds where the file rounds"
        else:
            judged = self.standard.judge(run(path))
        runtime = {}
        if self.precision.dtype is not torch.bfloat16:  # for which it has no convolution
            runtime = {"runtime": {"provider": "CPUExecutionProvider", **speed(run(path), self.spec)}}
        return {
            **self.facts,
            "bytes": path.stat().st_size,
            "verified_by": verified_by,
            **judged,
            **quantised,
            **runtime,
        }

    def _quantise(self, path: Path, calibration: Iterable[np.ndarray] | None) -> dict[str, Any]:
        from fastgan.deploy.quantize import quantize

        if calibration is None:
            calibration = [latents(8, self.spec.latent_shape, seed) for seed in range(1000, 1016)]
        exact = path.with_name(path.name + ".fp32.onnx")
        os.replace(path, exact)
        try:
            return quantize(exact, path, self.spec, calibration)
        finally:
            exact.unlink(missing_ok=True)

    def aoti(self, path: Path) -> dict[str, Any]:
        """Write and verify a package of PyTorch's ahead-of-time compiler. Returns the report."""
        from fastgan.deploy import aoti

        run = aoti.write(self.network, self.spec, path)
        judged = self.standard.judge(run)
        timed = {"runtime": {"provider": "AOTInductor", **speed(run, self.spec)}}
        return {**self.facts, "bytes": path.stat().st_size, "verified_by": "AOTInductor", **judged, **timed}


def _with_output(spec: Spec, network: nn.Module, x: Tensor) -> Spec:
    """The spec with what only the output tells; UsageError where that is not what the spec says."""
    y = compute(network, x, "float32")
    if not isinstance(y, Tensor):
        raise UsageError(f"network: expected one that returns a tensor of images, got {type(y).__name__}")
    n, _, *size = x.shape
    shape = [n, spec.channels, *(spec.scale * side for side in size)]
    if spec.kind == "image" and list(y.shape) != shape:
        raise UsageError(
            f"network: expected {shape} for {list(x.shape)}, as its scale {spec.scale} and its"
            f" channels {spec.channels} say, got {list(y.shape)}"
        )
    if y.dim() != 4 or y.shape[0] != n:
        raise UsageError(f"network: expected images [{n}, C, H, W] for {n} latents, got {list(y.shape)}")
    return replace(spec, channels=y.shape[1])


def speed(run: Run, spec: Spec) -> dict[str, float]:
    """Latency at batch 1; images per second at batch 64 of latents. Images: one of about 128×128."""
    if spec.kind == "image":
        side = spec.multiple * max(1, round(128 / spec.multiple))
        x = np.full((1, spec.channels, side, side), spec.range[1], np.float32)
        return {f"latency_ms_{side}x{side}_batch1": 1000 * _median_seconds(run, x)}
    return {
        "latency_ms_batch1": 1000 * _median_seconds(run, latents(1, spec.latent_shape, seed=0)),
        "images_per_second_batch64": 64 / _median_seconds(run, latents(64, spec.latent_shape, seed=0)),
    }


def _median_seconds(run: Run, x: np.ndarray) -> float:
    run(x)
    times: list[float] = []
    while sum(times) < _TIMED or len(times) < 3:
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    return float(np.median(times))
