"""One network on its way to a file: made plain, brought to its precision, written, judged and timed."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.export.canonicalize import lower
from fastgan.export.half_emulation import widened
from fastgan.export.precision import Precision, at_precision, compute
from fastgan.export.targets import onnx
from fastgan.export.verification_inputs import drawn, sample
from fastgan.export.verify import Run, Standard, smallest_units, tensors
from fastgan.nn import fold
from fastgan.runtime.session import latents
from fastgan.runtime.spec import Inputs, Spec

#: How long a finished file is timed for at each batch, seconds.
_TIMED = 0.3
#: int8: calibration images that are taken, and how many of them, up to which side, judge the result. Ranges are set by
#: their middles alone (quantize.py).
_LOOKED_AT, _JUDGED, _SIDE = 64, 3, 256


class Job:
    """One network on its way: what it is, what is written, and what the result is judged by."""

    def __init__(self, network: nn.Module, spec: Spec, precision: Precision, about: dict[str, Any]):
        from fastgan import __version__

        self.precision = precision
        truth = fold(network).cpu().float().requires_grad_(False)
        self.smallest = smallest_units(truth, spec)
        self.inputs = tensors(sample(spec, self.smallest))
        self.spec = _with_output(spec, truth, self.inputs)
        lowered = lower(truth, *self.inputs)
        self.network = at_precision(lowered, precision)
        self.facts = {**about, "precision": precision.name, "fastgan": __version__}
        like = self.network if self.network is not lowered else None
        self.standard = Standard.of(truth, self.spec, precision.name, like)
        self._truth = truth

    def onnx(self, path: Path, calibration: Iterable[np.ndarray] | None) -> dict[str, Any]:
        """Write and verify an ONNX file. Returns the report."""
        onnx.write(self.network, self.inputs, path, self.spec, self.precision.opset, self.smallest)
        quantized: dict[str, Any] = {}
        if self.precision.name == "int8":
            if calibration is not None and self.spec.kind == "image":
                # Ranges that were set for pictures like these fit no others: neither noise nor drawings.
                calibration = list(itertools.islice(calibration, _LOOKED_AT))
                pictures = [x[:1, :, :_SIDE, :_SIDE] for x in calibration[:_JUDGED]]
                self.standard = Standard.of(self._truth, self.spec, "int8", inputs=[(x,) for x in pictures])
            # Of float32 more is asked than of int8: what is quantized must be right itself.
            Standard.of(self._truth, self.spec).judge(onnx.open_file(path), "the model before quantization")
            quantized = {"quantization": self._quantize(path, calibration)}
        self.facts["opset"] = onnx.opset_of(path)
        onnx.stamp(path, self.spec, self.facts)
        report: dict[str, Any] = {**self.facts, "bytes": path.stat().st_size, "verified_by": "ONNX Runtime, CPU"}
        if self.precision.dtype is not torch.bfloat16:  # of which that has no convolution
            run = onnx.open_file(path)
            report |= self.standard.judge(run)
            report["runtime"] = {"provider": "CPUExecutionProvider", **speed(run, self.spec)}
        if self.precision.dtype is not torch.float32:
            # Stricter, so the figures are the twin's.
            report |= self.standard.judge(onnx.open_file(widened(path)))
            report["verified_by"] += ", by a float32 twin that rounds where the file rounds"
        return report | quantized

    def _quantize(self, path: Path, calibration: Iterable[np.ndarray] | None) -> dict[str, Any]:
        from fastgan.export.quantization.quantize import quantize

        if calibration is None:
            calibration = [latents(8, self.spec.latent_shape, seed) for seed in range(1000, 1016)]
        exact = path.with_name(path.name + ".fp32.onnx")
        os.replace(path, exact)
        try:
            return quantize(exact, path, self.spec, calibration, symmetric=self.facts["to"] == "tensorrt")
        finally:
            exact.unlink(missing_ok=True)

    def aoti(self, path: Path) -> dict[str, Any]:
        """Write and verify a package of PyTorch's ahead-of-time compiler. Returns the report."""
        from fastgan.export.targets import aoti

        aoti.write(self.network, self.spec, path, self.facts)
        package = aoti.load(path)

        def run(*inputs: np.ndarray) -> np.ndarray:
            return package(*tensors(inputs)).numpy()

        judged = self.standard.judge(run)
        timed = {"runtime": {"provider": "AOTInductor", **speed(run, self.spec)}}
        return {**self.facts, "bytes": path.stat().st_size, "verified_by": "AOTInductor", **judged, **timed}


def _with_output(spec: Spec, network: nn.Module, inputs: list[Tensor]) -> Spec:
    """The spec with what only the output tells; UsageError where that is not what the spec says."""
    y = compute(network, inputs, "float32")
    if not isinstance(y, Tensor):
        raise UsageError(f"network: expected one that returns a tensor of images, got {type(y).__name__}")
    n, _, *size = inputs[0].shape
    shape = [n, spec.channels, *(spec.scale * side for side in size)]
    if spec.kind == "image" and list(y.shape) != shape:
        raise UsageError(
            f"network: expected {shape} for {list(inputs[0].shape)}, as its scale {spec.scale} and its"
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
        return {f"latency_ms_{side}x{side}_batch1": 1000 * _median_seconds(run, (x,))}
    return {
        "latency_ms_batch1": 1000 * _median_seconds(run, drawn(spec, 1, seed=0)),
        "images_per_second_batch64": 64 / _median_seconds(run, drawn(spec, 64, seed=0)),
    }


def _median_seconds(run: Run, inputs: Inputs) -> float:
    run(*inputs)
    times: list[float] = []
    while sum(times) < _TIMED or len(times) < 3:
        start = time.perf_counter()
        run(*inputs)
        times.append(time.perf_counter() - start)
    return float(np.median(times))
