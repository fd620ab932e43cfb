"""Ranges of activations observed on calibration inputs, and the int8 parameters of least squared error for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgan.errors import ExportError
from fastgan.export.quantization.qdq import Int8Parameters, QuantizableLayer
from fastgan.runtime.spec import Inputs

#: Sampled values of a tensor for each input, and bins of their histogram.
SAMPLES, BINS = 16384, 2048


@dataclass
class ObservedRanges:
    """low_high: by tensor, float64 [2, channels], its minima and maxima (one channel for matrix products).
    multiplications: by layer, their number for one input of the first size."""

    low_high: dict[str, np.ndarray]
    multiplications: dict[str, int]


def observe(model: Any, candidates: list[QuantizableLayer], inputs: list[Inputs]) -> ObservedRanges:
    """Run the network on all inputs. Tensors are reduced inside the graph, so the memory is that of one run."""
    from onnx import helper, numpy_helper

    axes = numpy_helper.from_array(np.array([0, 2, 3]), "observe/axes")
    nodes, outputs = [], []
    tensors = _tensors(candidates)
    for name, channels in tensors.items():
        for what in ("ReduceMin", "ReduceMax"):
            given = [name, "observe/axes"] if channels else [name]
            nodes.append(helper.make_node(what, given, [f"observe/{what}/{name}"], keepdims=0))
            outputs.append(f"observe/{what}/{name}")
    names = {layer.y: layer for layer in candidates}
    for name in names:
        nodes.append(helper.make_node("Size", [name], [f"observe/Size/{name}"]))
        outputs.append(f"observe/Size/{name}")
    low_high: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    run = extended(model, nodes, [axes], outputs)
    for one in inputs:
        got = dict(zip(outputs, run(*one), strict=True))
        for name in tensors:
            pair = np.stack([np.atleast_1d(got[f"observe/{what}/{name}"]) for what in ("ReduceMin", "ReduceMax")])
            old = low_high.get(name, pair)
            low_high[name] = np.stack([np.minimum(old[0], pair[0]), np.maximum(old[1], pair[1])]).astype(np.float64)
        sizes = sizes or {name: int(got[f"observe/Size/{name}"]) for name in names}
    for name, pair in low_high.items():
        if not np.isfinite(pair).all():
            raise ExportError(f"precision: {name} becomes NaN or infinite on the calibration inputs")
    dims = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    work = {}
    for y, layer in names.items():
        weight = dims[layer.weight]
        work[layer.name] = sizes[y] * int(np.prod(weight)) // weight[layer.out_axis]
    return ObservedRanges(low_high, work)


def choose_parameters(
    model: Any, candidates: list[QuantizableLayer], observed: ObservedRanges, inputs: list[Inputs], *, symmetric: bool
) -> dict[str, Int8Parameters]:
    """Parameters for each input and output of the layers: those of least squared error on values from a second run."""
    from onnx import helper, numpy_helper

    # Every n-th value is sampled, n odd: with a power of two, the samples would be the same columns of every row.
    constants = {"half": 2 * SAMPLES, "two": 2, "one": 1, "flat": [-1], "start": [0], "end": [2**62]}
    added = [numpy_helper.from_array(np.array(value, np.int64), f"observe/{name}") for name, value in constants.items()]
    nodes, outputs = [], []
    tensors = _tensors(candidates)
    for i, name in enumerate(tensors):
        part = f"observe/{i}/"
        for op, given, made in (
            ("Size", [name], "size"),
            ("Div", [f"{part}size", "observe/half"], "pairs"),
            ("Mul", [f"{part}pairs", "observe/two"], "even"),
            ("Add", [f"{part}even", "observe/one"], "odd"),
            ("Reshape", [f"{part}odd", "observe/flat"], "step"),
            ("Reshape", [name, "observe/flat"], "row"),
            ("Slice", [f"{part}row", "observe/start", "observe/end", "observe/start", f"{part}step"], "some"),
        ):
            nodes.append(helper.make_node(op, given, [part + made]))
        outputs.append(f"{part}some")
    limits = {name: (float(pair[0].min()), float(pair[1].max())) for name, pair in observed.low_high.items()}
    counts = {name: np.zeros(BINS) for name in tensors}
    run = extended(model, nodes, added, outputs)
    for one in inputs:
        for name, values in zip(tensors, run(*one), strict=True):
            low, high = limits[name]
            # Clipped, because equalization may move the extremes by a rounding error.
            counts[name] += np.histogram(np.clip(values, low, high), BINS, (low, max(high, low + 1e-12)))[0]
    return {name: least_error_parameters(*limits[name], counts[name], symmetric=symmetric) for name in tensors}


def least_error_parameters(low: float, high: float, counts: np.ndarray, *, symmetric: bool) -> Int8Parameters:
    """The parameters of least squared error for a histogram of values from low to high. 0 is represented exactly."""
    values = low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts)
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-9:
        return Int8Parameters(1.0, 0, symmetric)

    def error(tried: Int8Parameters) -> float:
        return float((counts * (tried.rounded(values) - values) ** 2).sum())

    shares = np.linspace(1, 0.1, 46)
    if symmetric:
        most = max(-low, high)
        return min((Int8Parameters(most * share / 127, 0, signed=True) for share in shares), key=error)
    least, most = low, high
    for _ in range(2):
        most = high * min(shares, key=lambda share: error(_between(least, high * share)))
        least = low * min(shares, key=lambda share: error(_between(low * share, most)))
    return _between(least, most)


def _between(low: float, high: float) -> Int8Parameters:
    scale = max(high - low, 1e-12) / 255
    return Int8Parameters(scale, int(np.clip(np.rint(-low / scale), 0, 255)))


def extended(model: Any, nodes: list[Any], constants: list[Any], outputs: list[str]) -> Any:
    """A function from a model's inputs to the named tensors: a copy with further nodes, in ONNX Runtime."""
    import onnxruntime
    from onnx import ModelProto, ValueInfoProto

    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(constants)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(ValueInfoProto(name=name) for name in outputs if name not in known)
    return open_model(copy, outputs, onnxruntime)


def open_model(model: Any, outputs: list[str], onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise ExportError(f"source: ONNX Runtime cannot open it: {str(error).strip().splitlines()[0]}") from error
    names = [port.name for port in session.get_inputs()]
    return lambda *inputs, **more: session.run(outputs, {**dict(zip(names, inputs, strict=False)), **more})


def _tensors(candidates: list[QuantizableLayer]) -> dict[str, bool]:
    """The inputs and outputs of layers, each once, and whether they are [N, C, H, W]."""
    found: dict[str, bool] = {}
    for layer in candidates:
        convolution = layer.op in ("Conv", "ConvTranspose")
        for name in (layer.x, layer.y):
            found[name] = found.get(name, False) or convolution
    return found
