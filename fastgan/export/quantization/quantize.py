"""Static int8 quantization of an ONNX file, with ranges observed on calibration inputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastgan._util.files import write_whole
from fastgan.errors import ExportError, UsageError
from fastgan.export.quantization import qdq, ranges, sensitivity
from fastgan.runtime import labels
from fastgan.runtime.spec import Inputs, Spec

#: Larger images are cropped to their center of SIDE pixels a side. At most COUNT inputs, of at most BATCH latents.
SIDE, COUNT, BATCH = 128, 64, 16


def quantize(
    source: Path, out: Path, spec: Spec, calibration: Iterable[np.ndarray], *, symmetric: bool = False
) -> dict[str, Any]:
    """Write `source`, a float32 ONNX file of opset 18 or later, to `out` with its layers in int8. Returns facts.

    calibration: float32 inputs [N, ...] like those the network will see, in spec.range; the first 64 images or batches
    of latents are taken, with labels 0, 1, ... in turn for a conditional generator. symmetric: zero points are 0, as
    TensorRT requires.

    The format is QDQ: QuantizeLinear and DequantizeLinear around Conv, ConvTranspose, Gemm and MatMul, which runtimes
    merge into int8 kernels. Weights are int8, symmetric, with a scale per output channel; activations int8 with a
    scale per tensor; biases and everything else stay float32. Four measures reduce the error:

    1. Equalization: channels are rescaled between a layer and the next so that all channels of the activation between
       them have similar ranges (Nagel et al., Data-free quantization, ICCV 2019; with observed activations, Xiao et
       al., SmoothQuant, ICML 2023).
    2. A tensor's range is that of least squared error, not that of its extreme values.
    3. Layers that read the network's input stay in float32: they are cheap, and CPUs without VNNI, which add pairs of
       products in 16 bits, saturate there.
    4. While the PSNR is below a target, the layers with most error per multiplication stay in float32 (sensitivity.py).

    Names, dynamic axes and metadata are kept. Raises UsageError for calibration inputs that do not fit and for a source
    that is no float32 ONNX file, ExportError where there is nothing to quantize, WriteError for `out`; then nothing is
    written.
    """
    model = qdq.read(source)
    inputs = _collect(calibration, spec)
    layers = qdq.layers(model)
    if not layers:
        raise ExportError("precision: the network has no convolution or matrix product with constant weights for int8")
    first = {layer.name for layer in layers if layer.x in {value.name for value in model.graph.input}}
    # A network of one layer is quantized nevertheless.
    candidates = [layer for layer in layers if layer.name not in first] or layers
    observed = ranges.observe(model, layers, inputs)
    pairs = qdq.equalize(model, candidates, observed)
    parameters = ranges.choose_parameters(model, candidates, observed, inputs, symmetric=symmetric)
    kept = sensitivity.layers_to_keep(model, candidates, parameters, observed, inputs, spec, all_layers=layers)
    chosen = [layer for layer in candidates if layer.name not in kept]
    qdq.insert(model, chosen, parameters)
    write_whole(out, model.SerializeToString())
    work = observed.multiplications
    return {
        "method": "QDQ: int8 weights per channel, int8 activations per tensor"
        + (", symmetric" if symmetric else "")
        + "; equalized channels, ranges of least squared error",
        "calibration_inputs": len(inputs),
        "layers_quantized": len(chosen),
        "layers_in_float": [layer.name for layer in layers if layer not in chosen],
        "channels_equalized": pairs,
        "work_quantized": sum(work[layer.name] for layer in chosen) / sum(work[layer.name] for layer in layers),
    }


def _collect(calibration: Iterable[np.ndarray], spec: Spec) -> list[Inputs]:
    """Checked inputs with labels: an image of at most SIDE pixels a side, or at most BATCH latents; at most COUNT."""
    inputs: list[Inputs] = []
    count = 0
    for number, given in enumerate(calibration, start=1):
        x = _checked(np.asarray(given), spec, f"calibration: input {number}")
        step = 1 if spec.kind == "image" else BATCH
        for start in range(0, len(x), step):
            part = x[start : start + step]
            part = _center(part, spec.multiple, SIDE) if spec.kind == "image" else np.ascontiguousarray(part)
            inputs.append((part, *labels.default(spec, len(part), count)))
            count += len(part)
            if len(inputs) == COUNT:
                return inputs
    if not inputs:
        raise UsageError("calibration: expected at least one input, got none")
    return inputs


def _checked(x: np.ndarray, spec: Spec, name: str) -> np.ndarray:
    if x.dtype != np.float32:
        raise UsageError(f"{name}: expected float32, got {x.dtype}")
    if not spec.accepts(x.shape):
        raise UsageError(f"{name}: expected {spec.wanted}, got {list(x.shape)}")
    if not np.isfinite(x).all():
        raise UsageError(f"{name}: expected finite values, got NaN or infinity")
    low, high = spec.range
    if spec.kind == "image" and not (x.min() >= low - 1e-3 and x.max() <= high + 1e-3):
        raise UsageError(f"{name}: expected values in [{low:g}, {high:g}], got some from {x.min():g} to {x.max():g}")
    return x


def _center(x: np.ndarray, multiple: int, side: int) -> np.ndarray:
    kept = [min(n, max(side, multiple)) // multiple * multiple for n in x.shape[2:]]
    top, left = ((n - k) // 2 for n, k in zip(x.shape[2:], kept, strict=True))
    return np.ascontiguousarray(x[:, :, top : top + kept[0], left : left + kept[1]])
