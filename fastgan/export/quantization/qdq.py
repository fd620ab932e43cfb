"""Operations on an ONNX graph for quantization: finding layers, equalizing channels, inserting QDQ nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgan.errors import UsageError

if TYPE_CHECKING:
    from fastgan.export.quantization.ranges import ObservedRanges

#: op → (axis of output channels, axis of input channels) of its weight.
AXES = {"Conv": (0, 1), "ConvTranspose": (1, 0), "Gemm": (1, 0), "MatMul": (1, 0)}
#: Operators with f(s·x) = s·f(x) for s > 0, channel by channel, of their first input.
HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
#: The exponent of the activation's range in a channel's scale; the weights' range has the rest (alpha of SmoothQuant).
#: Of 0.3, 0.5 and 0.7, this gave the best PSNR for SRVGGNetCompact.
ALPHA = 0.7


@dataclass(frozen=True)
class QuantizableLayer:
    """A node y = op(x, weight, bias), by the names of its tensors. out_axis, in_axis: channel axes of the weight."""

    name: str
    op: str
    x: str
    weight: str
    bias: str
    y: str
    out_axis: int
    in_axis: int


@dataclass(frozen=True)
class Int8Parameters:
    """value = scale · (integer − zero), with integers from 0 to 255, or from −127 to 127 if signed.

    Unsigned is the default: CPUs multiply uint8 activations with int8 weights, and OpenVINO computed wrong images for
    an RRDBNet with signed activations.
    """

    scale: float
    zero: int
    signed: bool = False

    def zero_point(self) -> np.ndarray:
        """The zero point as a scalar of the integer type."""
        return np.array(self.zero, np.int8 if self.signed else np.uint8)

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Values quantized and dequantized."""
        low, high = (-127, 127) if self.signed else (0, 255)
        return (np.clip(np.rint(values / self.scale) + self.zero, low, high) - self.zero) * self.scale


def read(source: Path) -> Any:
    """The model of a float32 file, with a name for every node. Raises UsageError."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed; install it with: pip install 'fastgan[onnx]'") from None
    try:
        model = onnx.load(source)
    except OSError as error:
        raise UsageError(f"source: {source} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's own, whose module moved between its versions
        raise UsageError(f"source: {source} is no ONNX file") from error
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not model.graph.node or opset < 18:
        what = f"one of opset {opset}" if model.graph.node else "no ONNX file"
        raise UsageError(f"source: expected an ONNX file of opset 18 or later, {source} is {what}")
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph.node):
        raise UsageError(f"source: {source} is quantized already; expected a float32 file")
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return model


def layers(model: Any) -> list[QuantizableLayer]:
    """Layers with constant float32 weights, in the order of the graph."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in AXES or node.domain not in ("", "ai.onnx"):
            continue
        weight = weights.get(node.input[1])
        if weight is None or weight.data_type != 1 or node.input[0] in weights:  # 1: FLOAT
            continue
        out_axis, in_axis = AXES[node.op_type]
        if node.op_type == "Gemm":
            if _attribute(node, "transA", 0):
                continue
            if _attribute(node, "transB", 0):
                out_axis, in_axis = in_axis, out_axis
        if len(weight.dims) != (4 if node.op_type in ("Conv", "ConvTranspose") else 2):
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        found.append(
            QuantizableLayer(
                node.name, node.op_type, node.input[0], node.input[1], bias, node.output[0], out_axis, in_axis
            )
        )
    return found


def equalize(model: Any, candidates: list[QuantizableLayer], observed: ObservedRanges) -> int:
    """Rescale the channels between consecutive convolutions, in the model and in the observed ranges.

    The channels of the activation between them, before and after a ReLU, leaky ReLU or PReLU, then have similar ranges.
    The network computes the same function up to rounding. Returns the number of rescaled activations.
    """
    named = {layer.name: layer for layer in candidates}
    consumers = _consumers(model)
    weights = _Weights(model)
    nodes = {node.name: node for node in model.graph.node}
    count = 0
    for layer in candidates:
        if layer.op not in ("Conv", "ConvTranspose"):
            continue
        between = [layer.y]
        follower = _only(consumers, layer.y)
        if follower is not None and follower.op_type in HOMOGENEOUS and follower.input[0] == layer.y:
            between.append(follower.output[0])
            follower = _only(consumers, between[-1])
        after = None if follower is None else named.get(follower.name)
        if after is None or after.x != between[-1] or after.op not in ("Conv", "ConvTranspose"):
            continue
        if any(_attribute(nodes[one.name], "group", 1) != 1 for one in (layer, after)):
            continue
        shared = [consumers[name] for name in (layer.weight, after.weight, layer.bias) if name]
        if any(len(users) > 1 for users in shared) or (layer.bias and layer.bias not in weights):
            continue
        largest = np.max([np.abs(observed.low_high[name]).max(0) for name in between], axis=0)
        weight = np.abs(weights[after.weight]).max(tuple(i for i in range(4) if i != after.in_axis))
        scale = _floored(largest) ** ALPHA / _floored(weight) ** (1 - ALPHA)
        scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
        weights.multiply(layer.weight, 1 / scale, layer.out_axis)
        if layer.bias:
            weights.multiply(layer.bias, 1 / scale, 0)
        weights.multiply(after.weight, scale, after.in_axis)
        for name in between:
            observed.low_high[name] = observed.low_high[name] / scale
        count += 1
    weights.store()
    return count


def quantized_weight(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The weight in int8 from −127 to 127, and float32 scales, one per channel of `axis`."""
    largest = np.abs(weight).max(tuple(i for i in range(weight.ndim) if i != axis))
    scales = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / scales.reshape(shape)), -127, 127).astype(np.int8), scales


def insert(model: Any, chosen: list[QuantizableLayer], parameters: dict[str, Int8Parameters]) -> None:
    """Quantize the chosen layers: weights stored as int8, inputs and outputs through QuantizeLinear, DequantizeLinear.

    Outputs too, before the activation function, because ONNX Runtime computes in int8 only between two quantizations;
    but not the output of the network.
    """
    from onnx import NodeProto, helper, numpy_helper

    graph = model.graph
    weights = _Weights(model)
    chosen_by = {layer.name: layer for layer in chosen}
    outputs = {layer.y for layer in chosen} - {value.name for value in graph.output}
    quantized = {layer.x for layer in chosen} | outputs
    added: list[Any] = []

    def rounding(name: str) -> list[Any]:
        own = parameters[name]
        scale, zero, whole = f"{name}/scale", f"{name}/zero", f"{name}/int8"
        added.append(numpy_helper.from_array(np.array(own.scale, np.float32), scale))
        added.append(numpy_helper.from_array(own.zero_point(), zero))
        return [
            helper.make_node("QuantizeLinear", [name, scale, zero], [whole], f"{name}/quantize"),
            helper.make_node("DequantizeLinear", [whole, scale, zero], [f"{name}/rounded"], f"{name}/dequantize"),
        ]

    nodes: list[Any] = []
    for name in (value.name for value in graph.input if value.name in quantized):
        nodes += rounding(name)
    done: set[str] = set()
    for original in graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        layer = chosen_by.get(node.name)
        for i, name in enumerate(node.input):
            if name in outputs or (layer is not None and i == 0):
                node.input[i] = f"{name}/rounded"
        if layer is not None:
            stored = f"{layer.weight}/rounded"
            if layer.weight not in done:
                whole, scales = quantized_weight(weights[layer.weight], layer.out_axis)
                parts = {"int8": whole, "scale": scales, "zero": np.zeros(len(scales), np.int8)}
                added += [numpy_helper.from_array(part, f"{layer.weight}/{what}") for what, part in parts.items()]
                names = [f"{layer.weight}/{what}" for what in parts]
                nodes.append(
                    helper.make_node(
                        "DequantizeLinear", names, [stored], f"{layer.weight}/dequantize", axis=layer.out_axis
                    )
                )
                done.add(layer.weight)
            node.input[1] = stored
        nodes.append(node)
        for name in original.output:
            if name in quantized:
                nodes += rounding(name)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


class _Weights:
    """The initializers as arrays; `store` writes the changed ones into the model."""

    def __init__(self, model: Any):
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._changed: dict[str, np.ndarray] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        return self._changed[name] if name in self._changed else numpy_helper.to_array(self._tensors[name])

    def multiply(self, name: str, scale: np.ndarray, axis: int) -> None:
        array = self[name]
        shape = [1] * array.ndim
        shape[axis] = -1
        self._changed[name] = array * scale.reshape(shape)

    def store(self) -> None:
        from onnx import numpy_helper

        for name, array in self._changed.items():
            self._tensors[name].CopyFrom(numpy_helper.from_array(array, name))


def _consumers(model: Any) -> dict[str, list[Any]]:
    """The nodes that read each tensor; None for an output of the network."""
    consumers: dict[str, list[Any]] = {value.name: [None] for value in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return consumers


def _only(consumers: dict[str, list[Any]], name: str) -> Any:
    users = consumers.get(name, [])
    return users[0] if len(users) == 1 else None


def _attribute(node: Any, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _floored(values: np.ndarray) -> np.ndarray:
    # Avoids scales of 0 and infinity for dead channels; below 1e-3 of the largest, 8 bits hold nothing of a channel.
    largest = float(values.max())
    return np.maximum(values.astype(np.float64), 1e-3 * largest) if largest > 0 else np.ones(values.shape)
