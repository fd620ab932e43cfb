"""int8: the convolutions of an ONNX file with quantized weights and activations, by ranges seen on real inputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastgan._util.files import write_whole
from fastgan.errors import ExportError, UsageError
from fastgan.export.quantization import qdq, ranges, sensitivity
from fastgan.runtime.labels import in_turn
from fastgan.runtime.spec import Inputs, Spec

#: Of larger calibration images the middle is taken; and so many inputs at most, each of at most BATCH latents.
SIDE, COUNT, BATCH = 128, 64, 16


def quantize(
    source: Path, out: Path, spec: Spec, calibration: Iterable[np.ndarray], *, symmetric: bool = False
) -> dict[str, Any]:
    """Write `source`, a float32 ONNX file of opset 18 or later, to `out` with its layers in int8. Returns facts.

    calibration: float32 inputs [N, ...] like those the network will see, in spec.range; the first 64 images or batches
    of latents are taken, with labels in turn where there are classes. symmetric: zero points are 0, as TensorRT asks;
    else ranges are as the values lie.

    The form is QDQ: QuantizeLinear and DequantizeLinear around Conv, ConvTranspose, Gemm and MatMul, which runtimes
    merge into int8 kernels. Weights are int8, symmetric, with a scale per output channel; activations int8 with a
    scale per tensor; biases and all else stay float32. Four things keep what 8 bits can keep:

    1. A channel's scale moves between a layer and the next (equalization): the same function, with all channels of the
       activation between them filling its one range. After Nagel et al., Data-free quantization, ICCV 2019, and, with
       seen activations, Xiao et al., SmoothQuant, ICML 2023.
    2. A range is not that of the outermost values but the one of least squared error.
    3. Layers that read the network's input stay in float32: they cost little, and there CPUs without VNNI, which add
       pairs of products in 16 bits, saturate.
    4. So do layers whose quantization, each tried alone, harms the output most, where it would be off by more than
       qdq's target in all (sensitivity.py).

    Names, dynamic axes and metadata are as they were. Raises UsageError for calibration that does not fit and for a
    source that is none, ExportError where there is nothing to quantize, WriteError for `out`; then nothing is written.
    """
    model = qdq.read(source)
    inputs = _collect(calibration, spec)
    layers = qdq.layers(model)
    if not layers:
        raise ExportError("precision: the network has no convolution or matrix product with constant weights for int8")
    first = {layer.name for layer in layers if layer.x in {value.name for value in model.graph.input}}
    # A network of one layer has nothing else to gain from.
    candidates = [layer for layer in layers if layer.name not in first] or layers
    seen = ranges.observe(model, layers, inputs)
    pairs = qdq.equalize(model, candidates, seen)
    steps = ranges.choose(model, candidates, seen, inputs, symmetric=symmetric)
    kept = sensitivity.layers_to_keep(model, candidates, steps, seen, inputs, spec, all_layers=layers)
    chosen = [layer for layer in candidates if layer.name not in kept]
    qdq.insert(model, chosen, steps)
    write_whole(out, model.SerializeToString())
    work = seen.multiplications
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
    """Checked inputs: images [1, C, H, W] of at most SIDE pixels a side, latents [≤ BATCH, ...]; at most COUNT."""
    inputs: list[Inputs] = []
    seen = 0
    for number, given in enumerate(calibration, start=1):
        x = _checked(np.asarray(given), spec, f"calibration: input {number}")
        for start in range(0, len(x), 1 if spec.kind == "image" else BATCH):
            if spec.kind == "image":
                inputs.append((_middle(x[start : start + 1], spec.multiple, SIDE),))
            else:
                z = np.ascontiguousarray(x[start : start + BATCH])
                inputs.append((z, in_turn(len(z), spec.classes, seen)) if spec.classes else (z,))
                seen += len(z)
            if len(inputs) == COUNT:
                return inputs
    if not inputs:
        raise UsageError("calibration: expected at least one input, got none")
    return inputs


def _checked(x: np.ndarray, spec: Spec, name: str) -> np.ndarray:
    if x.dtype != np.float32:
        raise UsageError(f"{name}: expected float32, got {x.dtype}")
    if spec.kind == "latent":
        if x.shape[1:] != spec.latent_shape or x.ndim == 0:
            raise UsageError(f"{name}: expected [N, {', '.join(map(str, spec.latent_shape))}], got {list(x.shape)}")
    elif x.ndim != 4 or x.shape[1] != spec.channels or 0 in x.shape or any(n % spec.multiple for n in x.shape[2:]):
        of = f", H and W multiples of {spec.multiple}" if spec.multiple > 1 else ""
        raise UsageError(f"{name}: expected [N, {spec.channels}, H, W]{of}, got {list(x.shape)}")
    if not np.isfinite(x).all():
        raise UsageError(f"{name}: expected finite values, got NaN or infinity")
    low, high = spec.range
    if spec.kind == "image" and not (x.min() >= low - 1e-3 and x.max() <= high + 1e-3):
        raise UsageError(f"{name}: expected values in [{low:g}, {high:g}], got some from {x.min():g} to {x.max():g}")
    return x


def _middle(x: np.ndarray, multiple: int, side: int) -> np.ndarray:
    kept = [min(n, max(side, multiple)) // multiple * multiple for n in x.shape[2:]]
    top, left = ((n - k) // 2 for n, k in zip(x.shape[2:], kept, strict=True))
    return np.ascontiguousarray(x[:, :, top : top + kept[0], left : left + kept[1]])
